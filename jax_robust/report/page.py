"""The page of a report: one HTML file that needs nothing else, and asks no network."""

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence

from jax_robust.report import differences, sections, status
from jax_robust.report.html import Child, Element, element, joined, picture, raw
from jax_robust.report.numbers import cell_text, interval_text, unit_of
from jax_robust.report.reading import Record
from jax_robust.report.table import PLAIN, Cell, Row, columns_of

_MOST_OPEN = 8  # sections that are unfolded at first

_SHORT = 18  # characters of a column's name that stand in one line

_LONG = ("status", "hardware", "versions", "run")


def page(
  title: str,
  records: Sequence[Record],
  rows: Sequence[tuple[Record, Row]],
  curves: Mapping[str, bytes],
  problems: Mapping[str, Sequence[str]],
  *,
  pictures: bool = True,
) -> str:
  """The whole page; of the same inputs it is the same text.

  Guarantees:
    `everything_is_escaped`: no name, value or message of a run becomes markup or a script.
    `asks_no_network`: its policy lets a browser load nothing, and run no script but ours.

  Args:
    title: of the page.
    records: what was read, in order; each has a section.
    rows: of the table, with the record of each.
    curves: PNG files by the title of the picture.
    problems: what could not be read, by folder.
    pictures: whether those of each run are in its section.
  """
  style, script = (_file(f"page.{suffix}") for suffix in ("css", "js"))
  identities = {record.name: f"run-{number}" for number, record in enumerate(records, 1)}
  keys = differences.differing_keys([record for record, _ in rows] or records)
  head = element(
    "head",
    element("meta", charset="utf-8"),
    element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
    element("meta", name="viewport", content="width=device-width, initial-scale=1"),
    element("title", title),
    raw("style", style),
  )
  body = element(
    "body",
    element("h1", title),
    element("p", _summary(records, rows, problems), class_="soft"),
    _problems(problems),
    _table(rows, identities) if rows else (),
    element("h2", "Trainings") if curves else (),
    element("div", [picture(png, name) for name, png in curves.items()], class_="pictures"),
    element("h2", "Each run"),
    [
      sections.section(
        record,
        identities[record.name],
        keys,
        is_open=len(records) <= _MOST_OPEN,
        pictures=pictures,
      )
      for record in records
    ],
    raw("script", script) if rows else (),
  )
  return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _file(name: str) -> str:
  """A file of this package."""
  return importlib.resources.files("jax_robust.report").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
  """What the page may do: show its own pictures, and our style and script, by their digests."""
  digests = [
    base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
  ]
  return (
    f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; "
    f"script-src 'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
  )


def _summary(records, rows, problems) -> str:
  """How many runs there are, and how many have ended well."""
  finished = sum(status.status_of(record) == status.FINISHED for record, _ in rows)
  said = f"{len(rows)} runs, {finished} of them finished. "
  dates = sorted(str(row["date"].value)[:10] for _, row in rows if "date" in row)
  if dates:
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    said += f"Trained {span}. "
  return said + "Accuracies in percent, with 95 % intervals over the images that were measured."


def _problems(problems: Mapping[str, Sequence[str]]) -> Child:
  """What could not be read."""
  if not problems:
    return ()
  listed = [
    element("li", element("b", name), ": ", line)
    for name, lines in problems.items()
    for line in lines
  ]
  return element(
    "div", element("strong", "Could not be read"), element("ul", listed), class_="note", role="note"
  )


def _table(rows: Sequence[tuple[Record, Row]], identities: Mapping[str, str]) -> Element:
  """The table with its box to filter, which a script makes work."""
  columns = columns_of([row for _, row in rows])
  counts = {cell.count for _, row in rows for cell in row.values() if cell.count}
  units = {
    name: unit_of(next(row[name].kind for _, row in rows if name in row)) for name in columns
  }
  numbers = {
    name for _, row in rows for name, cell in row.items() if isinstance(cell.value, (int, float))
  }
  head = [
    element(
      "th",
      element(
        "button",
        element("span", name),
        element("span", units[name], class_="unit") if units[name] else (),
        type="button",
      ),
      scope="col",
      class_=("number" if name in numbers else "") + (" long" if len(name) > _SHORT else ""),
      data_column=name,
    )
    for name in columns
  ]
  body = [
    _row(record, row, columns, identities[record.name], told=len(counts) > 1)
    for record, row in rows
  ]
  tools = element(
    "div",
    element("label", "Filter ", element("input", type="search", id="filter", placeholder="words")),
    element("span", id="count", class_="soft", aria_live="polite"),
    element("span", "A click on a column's name sorts; the address keeps it.", class_="soft"),
    class_="tools",
    hidden=True,
  )
  table = element("table", element("thead", element("tr", head)), element("tbody", body), id="runs")
  return joined(tools, element("div", table, class_="scroll", tabindex="0"))


def _row(record: Record, row: Row, columns: Sequence[str], identity: str, *, told: bool) -> Element:
  """A row; `told` says whether the numbers of images differ, and stand beside the numbers."""
  text = " ".join(str(cell.text or cell.value) for cell in row.values()).lower()
  cells = [_cell(name, row.get(name), identity, told=told) for name in columns]
  return element("tr", cells, data_text=text, data_section=identity)


def _cell(name: str, cell: Cell | None, identity: str, *, told: bool) -> Element:
  """A cell with what it is sorted by."""
  if cell is None:
    return element("td", data_column=name)
  is_number = isinstance(cell.value, (int, float))
  shown: Child = cell_text(cell)
  kind = "number" if is_number else "long" if name in _LONG else "short"
  if name == "run":
    parts = re.findall("[^/,_]*[/,_]?", cell_text(cell))  # where a line may end
    shown = element("a", [joined(part, element("wbr")) for part in parts], href=f"#{identity}")
  elif name == "command":
    shown = sections.copy_button(str(cell.value))
  elif name == "status" and cell.value != status.FINISHED:
    kind += " bad"
  below = [interval_text(cell.interval, cell.kind)] if cell.interval else []
  below += [f"{cell.count:,} images"] if told and cell.count and cell.kind != PLAIN else []
  value = json.dumps(cell.value) if is_number else str(cell.value)
  small = [element("small", line) for line in below]
  return element(
    "td", shown, small, class_=kind, data_column=name, data_value=value, data_number=is_number,
    title=str(cell.value) if name == "command" else None,
  )  # fmt: skip
