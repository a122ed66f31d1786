"""The generation job: drawn once, whatever stops it; shares of it make the same shards."""

import json
import pathlib
import signal

import numpy as np
import pytest

from jax_robust import jobs
from jax_robust.data import shards
from jax_robust.errors import ConfigError

FLAGS = ("--config.job=generate", "--config.generate.chunk_size=5")

CONFIG = """
import runpy

def get_config(arg=""):
  config = runpy.run_path({tiny!r})["get_config"](arg)
  config.generate = {{"method": "gaussian", "num_examples": 97, "num_shards": 3, "chunk_size": 7}}
  return config
"""


@pytest.fixture(scope="module")
def start(command, tmp_path_factory):
  """`start(folder, *flags, end=None)` starts the job."""
  path = tmp_path_factory.mktemp("config") / "config.py"
  tiny = pathlib.Path(__file__).parent.parent / "tiny_config.py"
  path.write_text(CONFIG.format(tiny=str(tiny)))

  def start(folder, *flags, end=None):
    return command([f"--config={path}", *FLAGS, *flags, f"--workdir={folder}"], end)

  return start


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
  """The workdir of a job that nothing disturbed."""
  folder = tmp_path_factory.mktemp("whole")
  done = start(folder)
  assert done.code == 0 and "97 samples in 3 shards" in done.printed, done.printed
  assert "generate: 20/20" in done.printed
  assert [path.name for path in (folder / "results").iterdir()] == []
  return folder


@pytest.mark.parametrize(
  ("block", "message"),
  [
    ({"method": "gausian"}, r"config.generate.method='gausian': did you mean 'gaussian'\?"),
    ({"num_exmples": 9}, r"unknown key 'generate.num_exmples': did you mean 'num_examples'\?"),
    ({"path": "x"}, "unknown key 'generate.path'"),
    ({"method": "convert", "chunk_size": 9}, "unknown key 'generate.chunk_size'"),
    ({"seed": 3}, "unknown key 'generate.seed'"),
  ],
)
def test_what_the_method_does_not_know_is_refused_before_a_folder_is_made(
  tiny, tmp_path, block, message
):
  config = tiny(job="generate", generate={"method": "gaussian", **block})
  with pytest.raises(ConfigError, match=message):
    jobs.run(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def files_of(folder):
  """Names and bytes of the shards."""
  return {path.name: path.read_bytes() for path in (folder / "generated").iterdir()}


def test_a_killed_generation_goes_on_to_the_same_shards(start, whole, tmp_path):
  for count in (3, 5):
    assert start(tmp_path, end=(signal.SIGKILL, "arrays", count, 0)).code == -9
  assert not (tmp_path / "generated").exists()
  done = start(tmp_path)
  assert done.code == 0 and "8 of 20 chunks are there already" in done.printed
  assert files_of(tmp_path) == files_of(whole)
  before = json.loads((whole / "generated" / "manifest.json").read_text())
  assert start(whole).code == 0 and before["num_examples"] == 97
  assert np.bincount(shards.open_shards(whole / "generated").read(np.arange(97))[1]).max() <= 10


def test_shares_of_a_generation_make_the_same_shards(start, whole, tmp_path):
  for i in range(2):
    done = start(tmp_path / str(i), f"--config.generate.shard={i}/2")
    assert done.code == 0 and "generate: 10 of 20 are here" in done.printed
    assert not (tmp_path / str(i) / "generated").exists()
  merge = ("--config.job=merge", f"--config.generate.pieces={tmp_path}/?")
  done = start(tmp_path / "all", *merge)
  assert done.code == 0, done.printed
  assert files_of(tmp_path / "all") == files_of(whole)
  done = start(tmp_path / "0", "--config.generate.num_examples=98")
  assert done.code == 2 and "generate.num_examples: 97 there, 98 here" in done.printed
