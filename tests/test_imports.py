"""What comes with an import, and what works where the heavy packages are not installed."""

import json
import os
import subprocess
import sys

from quick_compilation import XLA_FLAGS

LAZY = ("tensorflow", "tensorflow_datasets", "tensorboardX", "matplotlib", "sklearn")
HEAVY = (*LAZY, "flax", "orbax", "ml_collections")


def run(code, repository, blocked=()):
  """What a fresh interpreter, in which `blocked` can't be imported, prints last, read as JSON."""
  prelude = "import json, sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
  environment = {**os.environ, "PYTHONPATH": str(repository), "XLA_FLAGS": XLA_FLAGS}
  command = [sys.executable, "-c", prelude + code]
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_import_jax_robust_loads_the_core_only(repository):
  loaded = set(run("import jax_robust; print(json.dumps(list(sys.modules)))", repository))
  assert {"jax", "jax_robust.attacks", "jax_robust.losses"} <= loaded
  assert not {*HEAVY, "absl.app"} & loaded
  ours = {name.split(".")[1] for name in loaded if name.startswith("jax_robust.")}
  assert ours == {"attacks", "errors", "losses", "nets", "smoothing", "types"}


CORE = """
import jax, jax.numpy as jnp
from jax_robust import attacks, losses
import jax_robust.objectives, jax_robust.evaluate.scoring, jax_robust.evaluate.intervals
x, y = jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])
logits_fn = lambda x: x.reshape(2, -1)[:, :3]
attack = attacks.make_attack("pgd", norm="linf", eps=0.1, num_steps=2, step_size=0.1)
x_adv = attack(logits_fn, x, y, jax.random.key(0))
print(json.dumps(float(losses.margin(logits_fn(x_adv), y).min())))
"""


def test_attacks_and_losses_work_without_the_heavy_packages(repository):
  assert run(CORE, repository, blocked=HEAVY) > 0.19


TRAINING = """
from jax_robust import main
argv = ["--config={repository}/tests/tiny_config.py:steps=2", "--workdir={workdir}"]
print(json.dumps([main.main(argv), main.main([*argv, "--config.batch.backend=tfdata"])]))
"""


def test_resident_training_works_without_tensorflow(repository, tmp_path):
  code = TRAINING.format(repository=repository, workdir=tmp_path)
  assert run(code, repository, blocked=LAZY) == [0, 2]
  rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(row)["kind"] for row in rows] == ["train", "evaluate"]


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
folders = [checkpoint.Checkpointer({workdir!r} + name, max_to_keep=1) for name in ("/a", "/b")]
outcome = loop.run(
  state.create_state(net, optimizer, [images[:1] / np.float32(255)], seed=0),
  step_fn=jax.jit(update),
  make_batches=pipeline.make_train_batches(
    source, None, backend="resident", batch_size=4, original_share=1.0),
  evaluate=lambda state: {{"clean": 0.5}}, cadence=loop.Cadence(2, 0, 0, 1),
  checkpoints=loop.Checkpoints(*folders, "clean", "max"),
  writer=metrics.MetricsWriter({workdir!r}, tensorboard=False), batch_size=4)
print(json.dumps(outcome.step))
"""


def test_the_loop_works_without_configs_and_tensorflow(repository, tmp_path):
  code = LOOP.format(workdir=str(tmp_path))
  assert run(code, repository, blocked=(*LAZY, "ml_collections")) == 2


EVERYTHING = """
import importlib, pkgutil, jax_robust
for module in pkgutil.walk_packages(jax_robust.__path__, "jax_robust."):
  importlib.import_module(module.name)
print(json.dumps(list(sys.modules)))
"""


def test_no_module_loads_what_only_some_runs_need(repository):
  loaded = set(run(EVERYTHING, repository))
  assert {"jax_robust.main", "jax_robust.jobs.train", "jax_robust.data.tfds"} <= loaded
  assert not set(LAZY) & loaded
