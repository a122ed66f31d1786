"""The curves of all trainings of a report, a picture for each thing that was measured."""

import pathlib
from collections.abc import Mapping, Sequence

from jax_robust.atomic import read_bytes
from jax_robust.evaluate import run_plots
from jax_robust.report import differences, table
from jax_robust.report.reading import Record

Curves = Mapping[str, tuple[list[int], list[float]]]


def curves_of(records: Sequence[Record]) -> dict[str, Curves]:
  """Steps and values by what was measured, then by the label of the run.

  `loss` is that of the training; the others are what `config.evals` measures on held-out images.
  Of a run that did not measure it there are none, so that each keeps its colour in all pictures.
  """
  labels = differences.labels_of(records)
  measures = dict.fromkeys(name for record in records for name in table.evals_of(record))
  found: dict[str, Curves] = {}
  for name, kind in {"loss": "train", **dict.fromkeys(measures, "evaluate")}.items():
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for record, label in zip(records, labels, strict=True):
      rows = [row for row in record.rows if row.get("kind") == kind and name in row]
      curves[label] = [row["step"] for row in rows], [float(row[name]) for row in rows]
    if any(steps for steps, _ in curves.values()):
      found[name] = curves
  return found


def draw(folder: pathlib.Path, records: Sequence[Record]) -> dict[str, bytes]:
  """Draws a PNG for each measure into a folder; returns their contents by title."""
  pictures = {}
  for name, curves in curves_of(records).items():
    values = [value for _, each in curves.values() for value in each]
    is_share = name != "loss" and all(not 0 <= value > 1 for value in values)
    title = "training loss" if name == "loss" else f"{name}, held-out images"
    path = folder / f"{''.join(c if c.isalnum() else '_' for c in name)}.png"
    run_plots.draw_curves(path, curves, title, is_share=is_share)
    pictures[title] = read_bytes(path)
  return pictures
