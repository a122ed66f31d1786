"""Two processes of one job, one killed: the other ends soon, with a sentence, and both resume."""

import signal
import time

import pytest
from pair_process import PATIENCE, starter


@pytest.fixture
def start(tmp_path):
  """`start(name, **changes)` starts a pair."""
  with starter(tmp_path) as start:
    yield start


def kill(pair, victim, is_reached):
  """Kills one process when something is reached; how the other ended, how soon, and its output."""
  pair.wait_until(is_reached)
  pair.send_signal(signal.SIGKILL, victim)
  began = time.monotonic()
  codes = pair.finish()
  assert codes[victim] == -signal.SIGKILL
  return codes[1 - victim], time.monotonic() - began, pair.logs[1 - victim].read_text()


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_the_other_ends_with_a_sentence(start, victim):
  pair = start("pair")
  path = pair.workdir / "run" / "metrics.jsonl"
  code, seconds, printed = kill(
    pair, victim, lambda: path.exists() and len(path.read_text().splitlines()) >= 2
  )
  # Gloo says which ranks it has connected to.
  printed = "\n".join(line for line in printed.splitlines() if not line.startswith("[Gloo] Rank"))
  assert code == 1, printed
  print(printed)
  assert "another process of this job has ended" in printed
  assert "Traceback" not in printed and "Gloo" not in printed
  assert seconds < PATIENCE / 2
