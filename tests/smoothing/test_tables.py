"""Tables: the same numbers in Markdown and CSV, none above the log's."""

import csv
import io

import numpy as np
import pytest

from jax_robust.smoothing import curves, rounding, tables
from jax_robust.smoothing.log import make_log


def log_of(radii, **options):
  ones = np.ones(len(radii), int)
  return make_log(range(len(radii)), ones, ones, radii, **options)


@pytest.fixture(scope="module")
def published(published_log):
  names = ("mnist_gaussian_sigma0.50", "mnist_smoothmix_eta5_sigma0.50")
  return {name: published_log(name) for name in names}


def test_a_published_row(published):
  (row,) = tables.make_table(
    {"SmoothMix": published["mnist_smoothmix_eta5_sigma0.50"]}, [0, 0.25, 0.5, 1.0]
  )
  assert row == {
    "method": "SmoothMix", "images": "10000", "abstain": "29", "ACR": "1.6927", "s.e.": "0.0040",
    "r=0": "98.6", "r=0.25": "97.9", "r=0.5": "97.0", "r=1": "92.6",
  }  # fmt: skip


def test_markdown_and_csv_hold_the_same(published):
  rows = tables.make_table(published)
  assert [name for name in rows[0] if name.startswith("r=")][-2:] == ["r=1.5", "r=1.75"]
  head, rule, *lines = tables.markdown_table(published).splitlines()
  cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines)]
  assert cells == list(csv.reader(io.StringIO(tables.csv_table(published))))
  assert cells == [list(rows[0]), *(list(row.values()) for row in rows)]
  assert len({len(line) for line in (head, rule, *lines)}) == 1


def test_no_number_promises_more(published):
  logs = published | {"few": log_of([0.1 + 0.2, 1.0, 1.0])}
  radii = np.linspace(0, 2, 81)
  for row, log in zip(tables.make_table(logs, radii), logs.values(), strict=True):
    average = curves.estimate_average_radius(log)
    assert average.value - 1e-4 < float(row["ACR"]) <= average.value
    assert average.standard_error <= float(row["s.e."]) < average.standard_error + 1e-4
    shares = [float(cell) for name, cell in row.items() if name.startswith("r=")]
    exact = 100 * curves.certified_accuracy(log, radii)
    assert (shares <= exact + 1e-12).all() and (shares > exact - 0.1).all()


def test_exact_decimals_stay():
  """A float of 57.9 % lies below it: rounding down must not make 57.8 of it."""
  log = log_of([1.0] * 1000)
  for count in range(3, 1001, 7):  # 579 is one of them
    log = log._replace(correct=np.arange(1000) < count)
    (row,) = tables.make_table({"log": log}, [0.5])
    assert row["r=0.5"] == f"{count // 10}.{count % 10}"
  assert rounding.round_down(0.7356, 4) == "0.7356" and rounding.round_down(1.82999, 2) == "1.82"


def test_settings_are_shown_where_a_log_knows_them():
  logs = {"a": log_of([1.0, 0.5], header={"n": 10_000, "sigma": 0.5}), "b": log_of([1.0, 0.5])}
  first, second = tables.make_table(logs, [0.0])
  assert (first["sigma"], first["N"]) == ("0.5", "10000")
  assert (second["sigma"], second["N"]) == ("?", "?")
  assert "N" not in tables.make_table({"b": logs["b"]}, [0.0])[0]


def test_names_cannot_break_the_table():
  logs = {'a|b,\n"c"': log_of([1.0, 0.5])}
  assert len(tables.markdown_table(logs).splitlines()) == 3
  assert "a\\|b" in tables.markdown_table(logs)
  rows = list(csv.reader(io.StringIO(tables.csv_table(logs))))
  assert rows[1][0] == 'a|b,\n"c"' and len(rows[1]) == len(rows[0])


def test_one_image():
  (row,) = tables.make_table({"one": log_of([0.3])})
  assert row["ACR"] == "0.3000" and row["s.e."] == "inf" and row["r=0.25"] == "100.0"


def test_no_logs_no_table():
  with pytest.raises(ValueError, match="logs is empty"):
    tables.markdown_table({})
