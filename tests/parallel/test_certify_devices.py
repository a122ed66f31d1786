"""Jobs in pieces over devices and processes: the rows are those of one device, whatever happens."""

import json
import re
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pair_config
import pytest
from pair_process import ARGUMENT, starter
from PIL import Image
from rows import mostly_slow

from jax_robust import jobs, overrides, smoothing
from jax_robust.models.convert import flatten_variables
from jax_robust.runs import build, row_log
from jax_robust.train import parallel

NUM_IMAGES = 13  # no multiple of anything
OPTIONS = {"sigma": 0.25, "n": 1_000, "max": NUM_IMAGES, "batch_size": 800}
PLACE = "results/certify_mlp_sigma0.25"


def make_config(weights, **changes):
  """A certification of the tiny net."""
  config = pair_config.get_config(ARGUMENT)
  config.job, config.init_from = "certify", str(weights)
  config.smoothing.update(OPTIONS)
  for key, value in changes.items():
    config[key] = value
  return config


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """A file of weights that vote for several classes."""
  config = pair_config.get_config(ARGUMENT)
  source = build.load_split(config, config.data.test_split)
  net = build.model(config, source.num_classes)
  variables = net.init(jax.random.key(3), jnp.zeros((1, *source.image_shape)), train=False)
  path = tmp_path_factory.mktemp("weights") / "weights.npz"
  np.savez(path, **flatten_variables(variables))
  return path


@pytest.fixture(scope="module")
def expected(weights, tmp_path_factory):
  """The rows that eight devices give under jit."""
  folder = tmp_path_factory.mktemp("expected")
  jobs.run(make_config(weights), str(folder))
  rows = rows_of(folder)
  assert sorted(rows) == list(range(NUM_IMAGES))
  assert len({row["selected"] for row in rows.values()}) > 1
  assert any(0 < row["radius"] < 0.5 for row in rows.values())
  return rows


def rows_of(folder):
  """Rows of all pieces, but for the time that they took; none may be there twice."""
  rows = {}
  for file in sorted((folder / PLACE).glob("piece-*.jsonl")):
    found = row_log.read(file).rows
    assert not found.keys() & rows.keys()
    rows |= {key: {**row, "seconds": None} for key, row in found.items()}
  return rows


@pytest.fixture
def start(tmp_path, weights):
  """`start(name, **changes)` starts two processes that certify."""
  options = {f"smoothing.{key}": value for key, value in OPTIONS.items()}
  with starter(tmp_path, job="certify", init_from=weights, **options) as start:
    yield start


@pytest.mark.thorough
@pytest.mark.parametrize("mode", mostly_slow(parallel.MODES[1:], "shard_map"))
def test_eight_devices_in_every_mode(mode, weights, expected, tmp_path):
  jobs.run(make_config(weights, parallel=mode), str(tmp_path))
  assert rows_of(tmp_path) == expected


@pytest.mark.thorough
@pytest.mark.parametrize(
  "mode", ["jit", *(pytest.param(mode, marks=pytest.mark.slow) for mode in parallel.MODES[1:])]
)
def test_two_processes_share_the_images(mode, start, expected):
  pair = start(parallel=mode)
  assert pair.finish() == [0, 0], pair.printed()
  run = pair.workdir / "run"
  shares = [row_log.read(run / PLACE / f"piece-{i}-of-2.jsonl").rows for i in range(2)]
  assert list(map(len, shares)) == [7, 6]
  assert rows_of(run) == expected
  log = smoothing.read_log(run / PLACE / "certify.tsv", num_examples=NUM_IMAGES)
  assert log.predict.tolist() == [expected[i]["predict"] for i in range(NUM_IMAGES)]


def wait_for_rows(pair, count):
  """Returns as soon as there are so many rows, of either process."""
  place = pair.workdir / "run" / PLACE

  def num_rows():
    return sum(len(file.read_bytes().splitlines()) - 1 for file in place.glob("piece-*"))

  pair.wait_until(lambda: num_rows() >= count)


def stopped(start, number, **changes):
  """The workdir of a pair that both got a signal before the end."""
  pair = start(**changes)
  wait_for_rows(pair, 2)
  pair.send_signal(number)
  began = time.monotonic()
  assert set(pair.finish()) <= {-number, 128 + number}, pair.printed()
  assert time.monotonic() - began < 10
  run = pair.workdir / "run"
  assert len(rows_of(run)) >= 2 and not (run / PLACE / "certify.tsv").exists()
  return run


MANY = {"n": 4_000, "max": 24}


@pytest.mark.slow
def test_sigterm_stops_two_processes_and_one_goes_on(start, weights, tmp_path):
  """Whatever number of processes had begun the piece, one finishes it; pieces make the whole."""
  options = {f"smoothing.{key}": value for key, value in MANY.items()}
  run = stopped(start, signal.SIGTERM, **options, **{"smoothing.shard": "0/2"})
  before = rows_of(run)
  assert len(before) < MANY["max"] / 2 and all(key % 2 == 0 for key in before)
  config = make_config(weights)
  config.smoothing.update(MANY)
  for place, shard in ((run, "0/2"), (tmp_path / "other", "1/2"), (tmp_path / "whole", "0/1")):
    config.smoothing.shard = shard
    jobs.run(config, str(place))
  config.job, config.smoothing.pieces = "merge", (str(run), str(tmp_path / "other"))
  jobs.run(config, str(tmp_path / "merged"))
  assert rows_of(tmp_path / "merged") == rows_of(tmp_path / "whole")
  assert before.items() <= rows_of(tmp_path / "whole").items()


@pytest.mark.slow
def test_two_processes_killed_by_9_go_on(start, weights, tmp_path):
  options = {f"smoothing.{key}": value for key, value in MANY.items()}
  run = stopped(start, signal.SIGKILL, **options)
  assert len(rows_of(run)) < MANY["max"]
  again = start(**options)
  assert again.finish() == [0, 0], again.printed()
  config = make_config(weights)
  config.smoothing.update(MANY)
  jobs.run(config, str(tmp_path / "whole"))
  assert rows_of(run) == rows_of(tmp_path / "whole")


def results_of(folder, job):
  """What a job leaves, but for names and times."""
  if job == "generate":
    return {path.name: path.read_bytes() for path in (folder / "generated").iterdir()}
  if job == "predict":
    return (folder / "results" / "predict.csv").read_text()
  evaluation = json.loads((folder / "results" / "autoattack.json").read_text())
  return [each["flags"] for each in evaluation["evaluations"]]


@pytest.mark.slow
@pytest.mark.parametrize("job", ["autoattack", "predict", "generate"])
def test_two_processes_share_every_job_in_pieces(job, weights, tmp_path):
  (tmp_path / "images").mkdir()
  draw = np.random.default_rng(0)
  for i in range(5):
    pixels = draw.integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
  options = {
    "job": job, "init_from": weights, "autoattack.version": "apgd-ce", "autoattack.chunk_size": 3,
    "smoothing.images": tmp_path / "images", "smoothing.sigma": 0.25, "smoothing.n": 400,
  }  # fmt: skip
  with starter(tmp_path, **options) as start:
    pair = start()
    assert pair.finish() == [0, 0], pair.printed()
  config = pair_config.get_config(ARGUMENT)
  for key, value in options.items():
    overrides.override(config, key, str(value))
  jobs.run(config, tmp_path / "one")
  assert results_of(pair.workdir / "run", job) == results_of(tmp_path / "one", job)
  done = [re.search(r"\d+/\d+ ", log.read_text())[0] for log in pair.logs]
  assert len(done) == 2, "each process did a share"
