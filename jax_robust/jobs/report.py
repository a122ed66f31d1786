"""The report job: workdirs side by side, as one HTML page and as a table."""

import pathlib
from typing import Any

import jax

from jax_robust.atomic import write_atomically
from jax_robust.report import curves, page, reading, table
from jax_robust.runs import workdir
from jax_robust.train import metrics


def report(config: Any, path: pathlib.Path, checked: list[pathlib.Path]) -> dict[str, Any]:
  """Writes `results/report.html`, one page over the workdirs that `report.runs` stands for.

  Their own trainings, of a sweep, a comparison or a study, are in it. What can't be read is named
  in the page, and said.
  """
  options = config.report
  records, problems = reading.read_all(checked, path)
  for name, lines in problems.items():
    for line in lines:
      metrics.report(f"{name}: {line}")
  # What has trainings of its own has no row beside them.
  rows = [(record, table.row_of(record)) for record in records if not record.has_inner]
  result = {"table": table.as_data([row for _, row in rows]), "problems": problems}
  if jax.process_index() == 0:
    workdir.write_result(path, "report", result)
    drawn = curves.draw(path / "results", [record for record, _ in rows])
    text = page.page(options.title, records, rows, drawn, problems, pictures=options.pictures)
    place = path / "results" / "report.html"
    write_atomically(place, text)
    print(f"page: {place} ({len(text.encode()) / 1e6:.1f} MB, {len(rows)} runs)")
  return result


def check(config: Any) -> list[pathlib.Path]:
  """The workdirs that the config names.

  Raises:
    ConfigError: there are none.
  """
  return reading.find(config.report.runs)
