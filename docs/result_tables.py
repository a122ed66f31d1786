"""A Sphinx extension: the page of result files is the table of `jax_robust.runs.result_kinds`."""

from jax_robust.runs import result_fields, result_kinds

PAGE = "reference/result_files"


def setup(app):
  """Called by Sphinx."""
  app.connect("source-read", _read)
  app.connect("env-before-read-docs", lambda app, env, names: names.append(PAGE))
  return {"parallel_read_safe": True}


def _read(app, name, source):
  """Adds the tables to what the page says."""
  if name == PAGE:
    source[0] = f"{source[0]}\n{to_markdown()}"


def to_markdown() -> str:
  """All tables: what every result has, each kind, and the parts that several have."""
  every = result_fields.Kind("Added to every result.", result_fields.COMMON)
  parts = [("##", "Every result", every)]
  parts += [
    ("##", f"{name} (version {kind.version})", kind) for name, kind in result_kinds.KINDS.items()
  ]
  parts += [("###", name, kind) for name, kind in result_fields.PARTS.items()]
  lines = []
  for level, title, kind in parts:
    if title == next(iter(result_fields.PARTS)):
      lines += ["## Parts", "", "Types that the tables above name.", ""]
    lines += [f"{level} {title}", "", kind.meaning, "", *_table(kind), ""]
  return "\n".join(lines)


def _table(kind):
  """The fields of a kind, a row each."""
  yield "| field | type | unit | meaning |"
  yield "|---|---|---|---|"
  for name, field in kind.fields.items():
    optional = " (optional)" if field.optional else ""
    cells = (f"`{name}`", f"{field.type}{optional}", field.unit, field.meaning)
    yield f"| {' | '.join(_escape(cell) for cell in cells)} |"


def _escape(text):
  """Text in a cell of a table; what is in backticks is code already."""
  return text.replace("|", r"\|") if text.startswith("`") else text.replace("*", r"\*")
