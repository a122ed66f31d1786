"""A Sphinx extension that reads docstrings as the house writes them.

They are plain text with code in backticks, in sections such as `Args:`, whose items are
`name: text`.
"""

import re
import textwrap

_HEADS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Guarantees[^:`]*", "Reference")
_SECTION = re.compile(rf"({'|'.join(_HEADS)}):(.*)")
_NAME = r"(?:\*{0,2}[\w.]+|`[^`]+`)"
_ITEM = re.compile(rf"({_NAME}(?:, {_NAME})*): (.+)")


def setup(app):
  """Called by Sphinx."""
  app.setup_extension("sphinx.ext.autodoc")
  app.connect("autodoc-process-docstring", _process)
  app.connect("autodoc-skip-member", _skip)
  return {"parallel_read_safe": True}


def _process(app, what, name, obj, options, lines):
  """Replaces the lines of a docstring by reStructuredText."""
  lines[:] = to_rst(textwrap.dedent("\n".join(lines)).split("\n"))


def _skip(app, what, name, obj, skip, options):
  """Leaves out the fields of named tuples, which `Attributes:` describes."""
  return True if type(obj).__name__ == "_tuplegetter" else None


def to_rst(lines: list[str]) -> list[str]:
  """A docstring as reStructuredText."""
  found: list[str] = []
  for block in _blocks(lines):
    head = _SECTION.fullmatch(block[0])
    if head:
      found += [f"**{head[1]}**", ""]
      inner = textwrap.dedent("\n".join(block[1:])).split("\n")
      found += _items([head[2].strip(), *inner])
    else:
      found += _text(block)
  return found


def _blocks(lines):
  """A docstring in parts: each section with all that is indented below it, each paragraph."""
  blocks, inside = [], False
  for line in lines:
    if _SECTION.fullmatch(line):
      blocks.append([line])
      inside = True
    elif inside and (not line.strip() or line.startswith(" ")):
      blocks[-1].append(line)
    elif not line.strip():
      blocks.append([])
      inside = False
    else:
      if inside or not blocks:
        blocks.append([])
      inside = False
      blocks[-1].append(line)
  return [block for block in blocks if any(line.strip() for line in block)]


def _items(lines):
  """What a section says: a list of definitions, or text."""
  found = []
  for block in _groups(lines):
    item = _ITEM.fullmatch(block[0])
    if item:
      rest = [item[2], *(line.strip() for line in block[1:])]
      found += [_names(item[1]), "  " + _inline(" ".join(filter(None, rest))), ""]
    else:
      found += _text(block)
  return found


def _groups(lines):
  """Lines of a section, each that is not indented with the indented ones below it."""
  groups = []
  for line in lines:
    starts = line.strip() and not line.startswith(" ")
    if starts and (not groups or _ITEM.fullmatch(line) or not groups[-1] or _ends(groups[-1])):
      groups.append([line])
    elif groups:
      groups[-1].append(line)
  return [group for group in groups if any(line.strip() for line in group)]


def _ends(group):
  """Whether a blank line or an item stands before what comes next."""
  return not group[-1].strip() or _ITEM.fullmatch(group[0])


def _text(block):
  """A paragraph, an example, or lines that are set off."""
  while block and not block[-1].strip():
    block = block[:-1]
  if block[0].startswith(">>>"):
    return [*block, ""]
  if all(line.startswith("  ") for line in block if line.strip()):
    return ["::", "", *(f"  {line}" for line in block), ""]
  if block[0].startswith("- "):
    return [*_bullets(block), ""]
  return [*_paragraph(block), ""]


def _bullets(block):
  """A list with a line for each point."""
  points = []
  for line in block:
    if line.startswith("- "):
      points.append(line[2:])
    else:
      points[-1] += " " + line.strip()
  return [f"- {_inline(point)}" for point in points]


def _paragraph(block):
  return [_inline(" ".join(line.strip() for line in block if line.strip()))] if block else []


def _names(text):
  """The names that an item begins with, as code."""
  return ", ".join(f"``{name.strip().strip('`')}``" for name in text.split(","))


def _inline(text):
  """Text whose backticks are code, and in which nothing else has a meaning."""
  parts = text.split("`")
  if len(parts) % 2 == 0:
    return _escape(text)
  found = ""
  for number, part in enumerate(parts):
    if number % 2 and part.strip():
      before = "\\ " if found[-1:].isalnum() else ""
      after = "\\ " if re.match(r"[\w'\"]", parts[number + 1]) else ""
      found += f"{before}``{part.strip()}``{after}"
    else:
      found += _escape(part)
  return found


def _escape(text):
  return re.sub(r"([\\*|_`])", r"\\\1", text)
