"""SmoothMix from the tf.data pipeline, generated shards in every chunk; killed, and resumed."""

import re
import signal

import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust.data import mixture
from jax_robust.jobs import generate
from jax_robust.runs import build, training
from jax_robust.train import metrics, parallel

METHODS = ("gaussian", "stability", "smoothadv", "macer", "consistency", "smoothmix")
NUM_SHARDS, NUM_GENERATED = 5, 60


def load(reference, **changes):
  """A config with values of its blocks replaced."""
  config = config_lib.load(reference)
  for key, value in changes.items():
    block, name = key.split("__")
    config[block][name] = value
  return config


@pytest.fixture(scope="module")
def shard_folder(tmp_path_factory):
  """Shards as the generation job writes them: Gaussians fitted to the made images."""
  folder = tmp_path_factory.mktemp("shards")
  config = load("cifar10_smoothing:smoke")
  config.generate = {
    "method": "gaussian", "covariance": "diagonal", "num_examples": NUM_GENERATED,
    "num_shards": NUM_SHARDS,
  }  # fmt: skip
  written = generate.generate(config, folder)
  assert written == {"num_examples": NUM_GENERATED, "num_shards": NUM_SHARDS}
  return folder / generate.SHARDS


def originals_kept(rows, share):
  """Whether each batch, as rows of originals, has its share of them to within one."""
  return abs(np.sum(rows) - share * len(rows)) <= 1


@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("method", METHODS)
def test_every_chunk_is_to_keep_its_share(method, share):
  """A batch is a published chunk, so it is mixed before it would have been cut; all noise levels.

  A cut of it into micro-batches, or of a batch of 256 into chunks, would keep the share as well.
  """
  for name in ("mnist_smoothing", "cifar10_smoothing"):
    for sigma in (0.25, 0.5, 1.0):
      config = load(f"{name}:method={method},sigma={sigma}", batch__original_share=share)
      batch = build.block(config, "batch")
      law = {key: batch[key] for key in ("original_share", "emulated_workers", "num_slices")}
      rows = mixture.original_rows(mixture.composition(config.batch.size, **law))
      num_chunks = 256 // config.batch.size
      assert originals_kept(rows, share) and len(rows) * num_chunks == 256
      whole = mixture.original_rows(mixture.composition(256, **law))
      for chunk in (*np.split(rows, 4), *np.split(whole, num_chunks)):
        assert originals_kept(chunk, share)


@pytest.mark.parametrize(
  ("reference", "size"),
  [("mnist_smoothing:sigma=1.0", 64), ("cifar10_smoothing:sigma=0.5", 128),
   ("cifar10_smoothing:method=smoothadv,sigma=0.5", 32)],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_every_chunk_of_the_pipeline_keeps_its_share(shard_folder, reference, size, share):
  """As training reads them: originals and shards interleaved in each batch, images their own."""
  config = load(
    reference, batch__original_share=share, generated__path=str(shard_folder), data__name="made"
  )
  sets = build.data(config)
  assert config.batch.backend == "tfdata" and len(sets.generated.counts) == NUM_SHARDS
  known = {
    kind: {image.tobytes() for image in source.read(np.arange(source.num_examples))[0]}
    for kind, source in ((False, sets.train), (True, sets.generated))
  }
  assert not known[False] & known[True]
  batches = training.batch_maker(config, sets, parallel.data_mesh(size))(0)
  seen = set()
  for _ in range(4):
    batch = {name: np.asarray(value) for name, value in next(batches).items()}
    assert batch["image"].shape == (size, 12, 12, 3)
    assert originals_kept(~batch["generated"], share)
    for image, kind in zip(batch["image"], batch["generated"], strict=True):
      assert image.tobytes() in known[bool(kind)]
      seen.add((bool(kind), image.tobytes()))
  batches.close()
  assert len(seen) > 90, "not the same few again and again"


@pytest.fixture(scope="module")
def argv(shard_folder):
  """The command line but for the workdir: two noises an image, the one-step adversary, BatchNorm.

  An epoch is 2.7 steps, so the warm-up is under way all along.
  """
  changes = {
    "generated.path": shard_folder, "objective.num_steps": 2, "total_steps": 12, "save_steps": 2,
    "evaluate_steps": 6, "log_steps": 1, "trackers": "",
  }  # fmt: skip
  flags = [f"--config.{key}={value}" for key, value in changes.items()]
  return ["--config=cifar10_smoothing:mix_step=1,generated=made,share=0.5,smoke", *flags]


@pytest.fixture(scope="module")
def whole(command, argv, tmp_path_factory):
  """The workdir of a run that nobody interrupts."""
  folder = tmp_path_factory.mktemp("smoothmix") / "whole"
  result = command([*argv, f"--workdir={folder}"])
  assert result.code == 0, result.printed
  return folder


@pytest.mark.thorough
def test_smoothmix_trains_from_shards(whole):
  config = config_lib.load(str(whole / "config.json"))
  assert config.objective.name == "smoothmix" and config.batch.backend == "tfdata"
  assert (config.objective.num_noise_vec, config.objective.mix_step) == (2, 1)
  assert config.batch.original_share == 0.5
  rows = metrics.read_metrics(whole / "metrics.jsonl")
  train = [row for row in rows if row["kind"] == "train"]
  assert [row["step"] for row in train] == list(range(1, 13))
  assert all(np.isfinite([row["loss"], row["cross_entropy"], row["mixed"]]).all() for row in train)
  for row in train:  # 64 images an epoch, 24 a step: eta = 5 times the warm-up of the epoch
    epoch = (row["step"] - 1) * 24 // 64
    expected = row["cross_entropy"] + 5 * (epoch + 1) / 10 * row["mixed"]
    np.testing.assert_allclose(row["loss"], expected, rtol=1e-4)
  assert sum("noisy" in row for row in rows if row["kind"] == "evaluate") == 2


@pytest.mark.thorough
def test_killed_at_a_save_it_resumes_bit_for_bit(command, argv, whole, left_behind, tmp_path):
  folder = tmp_path / "run"
  killed = [*argv, f"--workdir={folder}"]
  # As the second save begins: it is lost or whole, and the first is there.
  assert command(killed, (signal.SIGKILL, "save", 2, 0)).code == -signal.SIGKILL
  assert not (folder / "results").exists()
  result = command(killed)
  assert result.code == 0, result.printed
  assert re.search("resuming from step [24]\n", result.printed)
  assert left_behind(folder) == left_behind(whole)
