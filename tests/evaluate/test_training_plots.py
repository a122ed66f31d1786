"""Pictures of trainings: what is found in the rows, and that each line and alarm is drawn."""

import numpy as np
import pytest
from PIL import Image

from jax_robust.evaluate import training_plots

KINDS = {"robust": "attacked_exits", "distance": "feature_distance"}


def run(*, exits=2, alarm=False):
  rows = []
  for step in (10, 20, 30):
    rows.append(
      {"step": step, "kind": "train"} | {f"kernel_norm_{k}": 1.0 + k for k in range(exits)}
    )
    rows.append(
      {"step": step, "kind": "evaluate"} | {f"robust/{k}": 0.4 - 0.01 * k for k in range(exits)}
    )
  if alarm:
    rows.append({"step": 20, "kind": "alarm", "drop/1": 0.4})
  return training_plots.Run(rows, steps_per_epoch=10.0)


def pixels(path, runs):
  training_plots.draw_trainings(path, runs, KINDS)
  with Image.open(path) as image:
    return np.asarray(image.convert("RGB"), int)


@pytest.mark.fast
def test_only_what_was_measured_has_a_panel():
  patterns = [panel.pattern for panel in training_plots.panels_of({"a": run()}, KINDS)]
  assert patterns == [r"robust/(\d+)", r"kernel_norm_(\d+)"]


@pytest.mark.fast
def test_distances_are_drawn_by_block_and_by_depth():
  row = {"step": 1, "kind": "evaluate", "distance/relative/0": 0.1, "distance/relative/1": 0.2}
  panels = training_plots.panels_of({"a": training_plots.Run([row])}, KINDS)
  assert [(panel.ylabel, panel.by_depth) for panel in panels] == [
    ("relative distance", False), ("relative distance", True)
  ]  # fmt: skip


@pytest.mark.fast
def test_series_are_in_the_order_of_the_exits():
  steps, values = training_plots.series_of(run(exits=11), r"robust/(\d+)")["10"]
  assert steps.tolist() == [10, 20, 30] and values.tolist() == [0.4 - 0.1] * 3
  assert list(training_plots.series_of(run(exits=11), r"robust/(\d+)"))[-1] == "10"


def test_alarms_are_marked_and_runs_stand_side_by_side(tmp_path):
  def red(image):
    return (np.abs(image - np.array([176, 0, 32])).max(-1) < 60).sum()

  calm, alarmed = (pixels(tmp_path / "a.png", {"a": run(alarm=on)}) for on in (False, True))
  assert red(calm) < red(alarmed)
  beside = pixels(tmp_path / "b.png", {"a": run(), "b": run(alarm=True)})
  assert (beside.min(-1) < 250).mean() > 0.01
  assert beside.shape[0] > calm.shape[0]


@pytest.mark.fast
def test_a_training_without_exits_is_refused(tmp_path):
  empty = training_plots.Run([{"step": 1, "kind": "train", "loss": 1.0}])
  with pytest.raises(ValueError, match="nothing was measured of exits"):
    training_plots.draw_trainings(tmp_path / "a.png", {"a": empty}, {"clean": "clean"})
