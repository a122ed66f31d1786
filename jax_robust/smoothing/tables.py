"""Tables of certification logs, in Markdown and CSV."""

import csv
import io
import math
from collections.abc import Mapping

import numpy as np

from jax_robust.smoothing import bounds, curves
from jax_robust.smoothing.log import CertifyLog
from jax_robust.smoothing.rounding import format_percent, round_down, round_up

_SPACING = 0.25
_MOST_RADII = 100


def make_table(
  logs: Mapping[str, CertifyLog], radii: curves.Radii | None = None
) -> list[dict[str, str]]:
  """A table of logs, one row each, every certificate rounded down.

  Guarantees:
    `no_number_promises_more`: no accuracy or average radius is above the log's.

  Args:
    logs: by method.
    radii: of the accuracies; None: every .25 as far as a radius reaches, in at most 101 columns.

  Returns:
    For each log its `method`, `sigma` and `N` if one of the logs' headers says it, `images`,
    `abstain` (number of abstentions), `ACR` and its standard error (rounded up), and the certified
    accuracy in percent at each radius.

  Raises:
    ValueError: no logs, or one without rows; a negative radius.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0, 1, 2], [7, 2, 1], [7, 2, -1], [0.3, 0.5, 0.0], header={"n": 1000})
  >>> make_table({"gaussian": log}, radii=[0.0, 0.5])[0]["r=0.5"]
  '33.3'
  """
  if not logs:
    raise ValueError("logs is empty: expected at least one")
  if radii is None:
    most = max(float(log.radius.max(initial=0.0)) for log in logs.values())
    spacing = _SPACING * max(1, math.ceil(most / _SPACING / _MOST_RADII))
    radii = [spacing * i for i in range(math.floor(most / spacing) + 1)]
  radii = np.atleast_1d(radii)
  titles = {"sigma": "sigma", "n": "N"}
  known = set().union(*(log.header for log in logs.values()))
  settings = {key: title for key, title in titles.items() if key in known}
  rows = []
  for method, log in logs.items():
    estimate, total = curves.estimate_average_radius(log), len(log.radius)
    counts = curves.count_certified(log, radii).tolist()
    rows.append(
      {
        "method": method,
        **{title: str(log.header.get(key, "?")) for key, title in settings.items()},
        "images": str(total),
        "abstain": str(np.sum(log.predict == bounds.ABSTAIN)),
        "ACR": round_down(estimate.value, 4),
        "s.e.": round_up(estimate.standard_error, 4),
        **{
          f"r={r:g}": format_percent(count, total) for r, count in zip(radii, counts, strict=True)
        },
      }
    )
  return rows


def markdown_table(logs: Mapping[str, CertifyLog], radii: curves.Radii | None = None) -> str:
  """`make_table` in Markdown.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0, 1, 2], [7, 2, 1], [7, 2, -1], [0.3, 0.5, 0.0], header={"n": 1000})
  >>> print(markdown_table({"gaussian": log}))
  | method   |    N | images | abstain |    ACR |   s.e. |  r=0 | r=0.25 | r=0.5 |
  |----------|-----:|-------:|--------:|-------:|-------:|-----:|-------:|------:|
  | gaussian | 1000 |      3 |       1 | 0.2666 | 0.1453 | 66.6 |   66.6 |  33.3 |
  """
  rows = make_table(logs, radii)
  columns = list(rows[0])
  cells = [columns, *([_escape(row[name]) for name in columns] for row in rows)]
  widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
  lines = [
    f"| {line[0].ljust(widths[0])} | "
    + " | ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
    + " |"
    for line in cells
  ]
  rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
  return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def csv_table(logs: Mapping[str, CertifyLog], radii: curves.Radii | None = None) -> str:
  """`make_table` in CSV.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0, 1, 2], [7, 2, 1], [7, 2, -1], [0.3, 0.5, 0.0], header={"n": 1000})
  >>> print(csv_table({"gaussian": log}, radii=[0.0, 0.5]), end="")
  method,N,images,abstain,ACR,s.e.,r=0,r=0.5
  gaussian,1000,3,1,0.2666,0.1453,66.6,33.3
  """
  rows = make_table(logs, radii)
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _escape(cell: str) -> str:
  """A cell without characters that would end it in Markdown."""
  return cell.replace("|", "\\|").replace("\n", " ")
