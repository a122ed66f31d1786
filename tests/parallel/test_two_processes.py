"""Two processes over localhost, two devices each: they train as one, one writes, both resume."""

import signal
import time

import numpy as np
import pair_config
import pytest
from pair_process import ARGUMENT, EVERY, PATIENCE, STEPS, starter

from jax_robust import jobs
from jax_robust.train import checkpoint, metrics


@pytest.fixture
def start(tmp_path):
  """`start(name, **changes)` starts a pair."""
  with starter(tmp_path) as start:
    yield start


def wait_for_rows(pair, count):
  """Returns as soon as so many rows of metrics are written."""
  path = pair.workdir / "run" / "metrics.jsonl"
  pair.wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= count)


def in_one_process(folder):
  """The same training in this process, on its eight devices."""
  jobs.run(pair_config.get_config(ARGUMENT), str(folder))
  return folder


def arrays_of(folder):
  """Everything in the newest checkpoint."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / "latest", read_only=True)
  arrays, _ = reader.read(("params", "ema", "model_state", "opt_state", "step", "rng"))
  reader.close()
  assert int(arrays["step"]) == STEPS
  return arrays


def rows_of(folder):
  """Rows of metrics without times, by (step, kind); none may be there twice."""
  rows = {}
  for row in metrics.read_metrics(folder / "metrics.jsonl"):
    key = row.pop("step"), row.pop("kind")
    assert key not in rows, f"{key} was written twice"
    rows[key] = {name: value for name, value in row.items() if not name.startswith("time/")}
  logged = [(step, "train") for step in range(EVERY, STEPS + 1, EVERY)]
  assert set(rows) == {*logged, (30, "evaluate"), (STEPS, "evaluate")}
  return rows


def assert_close(folder, other, *, rtol):
  """Two runs ended at the same state, by way of the same metrics."""
  ours, theirs = arrays_of(folder), arrays_of(other)
  assert ours.keys() == theirs.keys()
  for name, array in ours.items():
    scale = np.max(np.abs(theirs[name]), initial=1e-3)
    np.testing.assert_allclose(array, theirs[name], rtol=0, atol=rtol * scale, err_msg=name)
  rows, expected = rows_of(folder), rows_of(other)
  for key, row in expected.items():
    assert rows[key] == pytest.approx(row, rel=rtol, abs=rtol), key


@pytest.mark.thorough
def test_sigterm_to_one_stops_both_and_both_resume(start, tmp_path):
  first = start("pair")
  wait_for_rows(first, 1)
  first.send_signal(signal.SIGTERM, 1)
  assert first.finish() == [143, 143], first.printed()
  run = first.workdir / "run"
  assert not (run / "results").exists()

  again = start("pair")
  assert again.finish() == [0, 0], again.printed()
  printed = [log.read_text() for log in again.logs]
  assert "resuming from step" in printed[0] and f"step {STEPS}/{STEPS}" in printed[0]
  assert f"step {STEPS}/{STEPS}" not in printed[1]
  assert f"process {again.processes[0].pid} " in (run / "lock").read_text()
  assert_close(run, in_one_process(tmp_path / "one"), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_kill_9_of_both_resumes_to_the_same_bits(mode, start):
  killed = start("killed", parallel=mode)
  wait_for_rows(killed, 3)  # the save after the first was waited for by the second
  killed.send_signal(signal.SIGKILL)
  assert killed.finish() == [-9, -9]
  again = start("killed", parallel=mode)
  assert again.finish() == [0, 0], again.printed()
  assert "resuming from step" in again.printed()
  whole = start("whole", parallel=mode)
  assert whole.finish() == [0, 0], whole.printed()
  assert "resuming" not in whole.printed()
  assert_close(again.workdir / "run", whole.workdir / "run", rtol=0)


@pytest.mark.slow
def test_a_mistake_of_one_ends_both(start):
  """The first process alone looks at the workdir; the second would wait for it in vain."""
  done = start("pair", total_steps=3)
  assert done.finish() == [0, 0], done.printed()
  began = time.monotonic()
  other = start("pair", total_steps=4)
  codes = other.finish()
  assert codes[0] == 2 and codes[1] != 0, other.printed()
  assert "total_steps: 3 there, 4 here" in other.logs[0].read_text()
  assert time.monotonic() - began < PATIENCE / 2
