"""Whatever can be wrong with generated images, from the generator to the batch, is said plainly."""

import functools
import json
import os
import signal

import numpy as np
import pytest
from rows import assert_all_refused

from jax_robust import jobs
from jax_robust.config import to_data
from jax_robust.data import convert, shard_writer, shards
from jax_robust.generate import gaussian
from jax_robust.jobs.train import make_training
from jax_robust.runs import build

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3000, 4, 4, 3)).astype(np.uint8)
LABELS = np.sort(RNG.integers(0, 10, 3000))


@pytest.fixture
def save(tmp_path):
  """`save(name, images, labels)` writes an npz."""

  def save(name, images=IMAGES[:20], labels=LABELS[::150]):
    np.savez(tmp_path / name, image=images, label=labels)
    return str(tmp_path / name)

  return save


def test_bad_input(tiny, save, tmp_path):
  """One row for each mistake: nothing is made, and the message names what is wrong."""

  def generate(run, **block):
    return jobs.run(tiny(job="generate", generate=block), tmp_path / "runs" / run)

  def train_on(path, **changes):
    return build.data(tiny(generated__path=path, **changes))

  def share(value):
    return make_training(tiny(batch__original_share=value))

  def fit(**options):
    options = {"num_examples": 9, "num_classes": 10, "seed": 0, **options}
    return gaussian.sample_chunks(IMAGES, LABELS, **options)

  net = tmp_path / "net"  # what is looked at before its weights
  net.mkdir()
  (net / "config.json").write_text(json.dumps(to_data(tiny())))
  (net / "data.json").write_text(json.dumps({"num_classes": 10, "image_shape": [12, 12, 3]}))
  pca = {"covariance": "pca", "rank": 500}
  large, labels = RNG.integers(0, 256, (20, 12, 12, 3)).astype(np.uint8), LABELS[::150]
  lost = convert.make_shards(save("a.npz", large), tmp_path / "lost", num_shards=2).name
  for path in (tmp_path / "lost").glob("*.images.npy"):
    path.unlink()
  rows = {
    "fewer samples than ranks": (
      functools.partial(generate, "a", method="gaussian", num_examples=9, **pca),
      r"config.generate: rank=500: expected 1 to \d+ for \d+ images",
    ),
    "a class without images": (functools.partial(fit, num_classes=11), "class 10 has 0 images"),
    "a label that is no class": (functools.partial(fit, num_classes=9), r"outside \[0, 9\)"),
    "classes that the net does not know": (
      functools.partial(
        jobs.run,
        tiny(
          job="generate", data__classes=(0, 1), batch__original_share=1.0, generated__path="",
          generate={"method": "diffusion", "net": str(net), "num_samples": 4},
        ),
        tmp_path / "runs" / "d",
      ),
      "was trained on images of num_classes 10, made .* has 2: name a run on images like these",
    ),
    "fewer labels than images": (
      functools.partial(generate, "b", method="convert", path=save("few.npz", labels=labels[:7])),
      "few.npz: there are 20 images but 7 labels",
    ),
    "no file": (
      functools.partial(generate, "c", method="convert", path="no*.npz"),
      "matches no file",
    ),
    "a share above 1": (functools.partial(share, 1.5), r"config.batch: original_share=1.5"),
    "a share below 0": (functools.partial(share, -0.1), r"original_share=-0.1: expected a share"),
    "no number": (functools.partial(share, float("nan")), "original_share=nan: expected a share"),
    "share 0 of no generated images": (
      functools.partial(train_on, "", batch__original_share=0.0),
      r"original_share=0.0 asks for generated images, but generated.path is empty",
    ),
    "a share of no generated images": (
      functools.partial(train_on, "", batch__original_share=0.3),
      r"original_share=0.3 asks for generated images, but generated.path is empty",
    ),
    "another shape": (
      functools.partial(train_on, save("small.npz")),
      r"small.npz' has image_shape \(4, 4, 3\), made has \(12, 12, 3\)",
    ),
    "more classes": (
      functools.partial(train_on, save("classes.npz", large, labels + 1)),
      "classes.npz' has other classes than made",
    ),
    "missing shards": (
      functools.partial(train_on, lost),
      "lacks 2 of its 4 files: shard-00000-of-00002.images.npy, shard-00001-of-00002.images.npy",
    ),
  }  # fmt: skip
  assert_all_refused(rows, lambda call: call())
  assert not any(tmp_path.glob("runs/*/generated"))


def kill_after_two_batches():
  """Ends the process that it is called in, without a warning, while shards are written."""
  write_rows, calls = shard_writer._write_rows, []

  def killed(*args):
    calls.append(args)
    if len(calls) > 2:
      os.kill(os.getpid(), signal.SIGKILL)
    write_rows(*args)

  shard_writer._write_rows = killed


def test_an_interrupted_conversion_leaves_only_whole_shards(command, save, tmp_path):
  path, run = save("set.npz", IMAGES, LABELS), tmp_path / "run"
  config = tmp_path / "config.py"
  config.write_text(CONFIG.format(path=path))
  flags = [f"--config={config}", f"--workdir={run}"]
  assert command(flags, prepare=kill_after_two_batches).code == -signal.SIGKILL
  assert any(run.glob(".generated.partial-*")) and not (run / "generated").exists()
  done = command(flags)
  assert done.code == 0 and "3000 samples in 1 shards" in done.printed, done.printed
  assert shards.open_shards(run / "generated", verify="sha256").num_examples == 3000
  assert not any(run.glob(".generated.partial-*"))
  assert json.loads((run / "generated" / "manifest.json").read_text())["licence"] == "CC0"
  save("set.npz", IMAGES, LABELS[:7])
  done = command([flags[0], f"--workdir={tmp_path / 'other'}"])
  assert done.code == 2 and "3000 images but 7 labels" in done.printed
  assert "Traceback" not in done.printed and not (tmp_path / "other" / "generated").exists()


CONFIG = """
from jax_robust import config as config_lib

def get_config(arg=""):
  config = config_lib.load("quickstart:" + arg)
  config.job = "generate"
  config.generate = {{"method": "convert", "path": {path!r}, "licence": "CC0"}}
  return config
"""
