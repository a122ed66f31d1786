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


@pytest.mark.thorough
@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_the_other_ends_with_a_sentence(start, victim):
  pair = start("pair")
  path = pair.workdir / "run" / "metrics.jsonl"
  code, seconds, printed = kill(
    pair, victim, lambda: path.exists() and len(path.read_text().splitlines()) >= 2
  )
  # Gloo says which ranks it has connected to.
  printed = "\n".join(line for line in printed.splitlines() if not line.startswith("[Gloo] Rank"))
  assert seconds < PATIENCE / 2 and "Traceback" not in printed
  if victim == 0 and code == -signal.SIGABRT:
    return  # JAX's own watch over the first process, which nobody can catch, was sooner than we
  assert code == 1, printed
  assert "another process of this job has ended" in printed and "Gloo" not in printed


CERTIFY = {
  "job": "certify", "smoothing.sigma": 0.25, "smoothing.n": 100, "smoothing.skip": 1,
  "smoothing.batch_size": 200, "init_from": "",
}  # fmt: skip


@pytest.mark.slow
def test_a_job_in_pieces_does_not_wait_for_a_process_that_is_gone(start, tmp_path):
  trained = start("pair", total_steps=10)
  assert trained.finish() == [0, 0], trained.printed()
  pair = start("pair", total_steps=10, **CERTIFY)
  path = pair.workdir / "run" / "results" / "certify_mlp_sigma0.25" / "piece-1-of-2.jsonl"
  code, seconds, printed = kill(pair, 1, path.exists)
  assert code == 1, printed
  assert "process 1 of this job has ended before its share was done" in printed
  assert "Traceback" not in printed and seconds < PATIENCE / 2
  again = start("pair", total_steps=10, **CERTIFY)
  assert again.finish() == [0, 0], again.printed()
  assert (path.parent / "certify.tsv").exists()
