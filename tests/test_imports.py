"""What comes with an import, and what works where the heavy packages are not installed."""

import json
import os
import subprocess
import sys

import pytest
from quick_compilation import XLA_FLAGS

LAZY = (
  "tensorflow",
  "tensorflow_datasets",
  "tensorboardX",
  "mlflow",
  "wandb",
  "matplotlib",
  "sklearn",
)
HEAVY = (*LAZY, "flax", "orbax", "ml_collections")
TRAIN_ONLY = (*HEAVY, "chex", "PIL", "safetensors")


def run(code, repository):
  """What a fresh interpreter prints, each line read as JSON."""
  environment = {**os.environ, "PYTHONPATH": str(repository), "XLA_FLAGS": XLA_FLAGS}
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
  return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", "{"))]


LOADED = """
import importlib, json, pkgutil, sys
import jax_robust
print(json.dumps(list(sys.modules)))
for module in pkgutil.walk_packages(jax_robust.__path__, "jax_robust."):
  importlib.import_module(module.name)
print(json.dumps(list(sys.modules)))
"""


@pytest.fixture(scope="module")
def loaded(repository):
  """The modules that come with `import jax_robust`, and those that come with all of it."""
  return [set(names) for names in run(LOADED, repository)]


def test_import_jax_robust_loads_the_core_only(loaded):
  core, _ = loaded
  assert {"jax", "jax_robust.attacks", "jax_robust.losses"} <= core
  assert not {*HEAVY, "absl.app"} & core
  ours = {name.split(".")[1] for name in core if name.startswith("jax_robust.")}
  assert ours == {"atomic", "attacks", "errors", "losses", "nets", "smoothing", "types"}


def test_no_module_loads_what_only_some_runs_need(loaded):
  _, everything = loaded
  assert {"jax_robust.main", "jax_robust.jobs.train", "jax_robust.data.tfds"} <= everything
  assert not set(LAZY) & everything


BLOCKS = """
import json, sys
def block(*names):
  for name in [n for n, module in sys.modules.items() if module is None]:
    del sys.modules[name]
  for name in names:
    assert name not in sys.modules, name + " was loaded before it could be blocked"
    sys.modules[name] = None
"""

CORE = """
import importlib, jax, jax.numpy as jnp
from jax_robust import attacks, losses
import jax_robust.objectives, jax_robust.evaluate.scoring, jax_robust.evaluate.intervals
for module in ("models", "config", "main", "train.state", "train.step", "train.checkpoint"):
  try:
    importlib.import_module("jax_robust." + module)
  except ImportError as error:
    assert str(error).endswith("pip install 'jax_robust[train]'"), error
  else:
    raise AssertionError(module + " was imported")
x, y = jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])
logits_fn = lambda x: x.reshape(2, -1)[:, :3]
attack = attacks.make_attack("pgd", norm="linf", eps=0.1, num_steps=2, step_size=0.1)
x_adv = attack(logits_fn, x, y, jax.random.key(0))
print(json.dumps({{"core": float(losses.margin(logits_fn(x_adv), y).min())}}))
"""

DATA = """
import numpy as np
from jax_robust import data
from jax_robust.data import convert, shard_writer, shards, tfds
from jax_robust.data.sources import array_source
from jax_robust.generate import gaussian
source = array_source(np.zeros((5, 2, 2, 1), np.uint8), np.arange(5))
num_batches = len(list(data.eval_batches(source, batch_size=2)))
make = data.make_train_batches(source, None, backend="resident", batch_size=4, original_share=1.0)
print(json.dumps({{"data": [num_batches, len(next(make(0))["label"])]}}))
"""

LOOP = """
import jax, numpy as np
from jax_robust import models, objectives
from jax_robust.data import augment, pipeline, sources
from jax_robust.train import checkpoint, loop, metrics, optim, state, step
images = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), np.uint8)
source = sources.array_source(images, np.arange(8) % 2)
net = models.create("mlp", num_classes=2, hidden=())
optimizer = optim.make_optimizer(optim.make_schedule(peak=0.1, total_steps=2))
update = step.make_update(
  objectives.OBJECTIVES["standard"], state.make_apply_fn(net), optimizer,
  prepare=augment.make_prepare(num_classes=2), steps_per_epoch=2.0)
folders = [checkpoint.Checkpointer({loop!r} + name, max_to_keep=1) for name in ("/a", "/b")]
outcome = loop.run(
  state.create_state(net, optimizer, [images[:1] / np.float32(255)], seed=0),
  step_fn=jax.jit(update),
  make_batches=pipeline.make_train_batches(
    source, None, backend="resident", batch_size=4, original_share=1.0),
  evaluate=lambda state: {{"clean": 0.5}}, cadence=loop.Cadence(2, 0, 0, 1),
  checkpoints=loop.Checkpoints(*folders, "clean", "max"),
  writer=metrics.MetricsWriter({loop!r}), batch_size=4)
print(json.dumps({{"loop": outcome.step}}))
"""


TRAINING = """
from jax_robust import main
argv = ["--config={repository}/tests/tiny_config.py:steps=2", "--workdir={workdir}"]
codes = [main.main(argv), main.main([*argv, "--config.batch.backend=tfdata"])]
print(json.dumps({{"training": codes}}))
"""


@pytest.fixture(scope="module")
def without(repository, tmp_path_factory):
  """What each of four programs prints in one process, in which ever fewer packages are missing."""
  folder = tmp_path_factory.mktemp("without")
  stages = [
    *(f"block(*{TRAIN_ONLY})", CORE),
    *(f"block(*{HEAVY})", DATA),
    *(f"block(*{(*LAZY, 'ml_collections')})", LOOP),
    *(f"block(*{LAZY})", TRAINING),
  ]
  places = {"repository": repository, "loop": str(folder / "loop"), "workdir": folder / "run"}
  (folder / "loop").mkdir()
  printed = run(BLOCKS + "\n".join(stages).format(**places), repository)
  return folder, {name: value for line in printed for name, value in line.items()}


@pytest.mark.thorough
def test_attacks_and_losses_work_without_the_heavy_packages(without):
  assert without[1]["core"] > 0.19


@pytest.mark.thorough
def test_data_works_without_the_heavy_packages(without):
  assert without[1]["data"] == [3, 4]


@pytest.mark.thorough
def test_the_loop_works_without_configs_and_tensorflow(without):
  assert without[1]["loop"] == 2


@pytest.mark.thorough
def test_resident_training_works_without_tensorflow(without):
  folder, printed = without
  assert printed["training"] == [0, 2]
  rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(row)["kind"] for row in rows] == ["train", "evaluate"]
