"""Every config that ships is built, and one of each objective takes its two smoke steps."""

import contextlib
import functools
import json

import jax
import numpy as np
import pytest
from one_device import one_device
from rows import mostly_thorough

from jax_robust import config as config_lib
from jax_robust import main, objectives
from jax_robust.data import augment, mixture
from jax_robust.runs import build, evaluation, training
from jax_robust.train import state

SMOOTHING = ("gaussian", "stability", "smoothadv", "macer", "consistency", "smoothmix")
METHODS = ("standard", "pgd_7", "pgd_10", "trades", "free", "fast_fgsm", "n_fgsm", "grad_align")
ARGUMENTS = {
  "cifar10_trades_ddpm": ["norm=l2", "flavour=sign,model=preact_resnet18", "cutmix"],
  "cifar10_adversarial": [f"attack={name}" for name in ("fgsm", "rs_fgsm", "n_fgsm", "none")],
  "own_images": [f"method={name}" for name in ("adversarial", "standard", "gaussian")],
  "mnist_trades": ["norm=l2"],
  "cifar10_laptop": ["share=1.0"],
  "mnist_smoothing": [f"method={name},sigma=0.25" for name in SMOOTHING],
  "cifar10_smoothing": ["method=macer,sigma=1.0,m=4,depth=20"],
  "imagenet_smoothing": ["method=smoothadv"],
  "fast_training": [
    *(f"method={name}" for name in METHODS),
    "net=preact_resnet18,method=pgd_7,eps=16/255",
    "exits=last,share=0.3",
    "method=grad_align,data=svhn,net=small",
    "method=free,recipe=common,epochs=8,net=small",
  ],
  "certify_smoothing": ["data=mnist"],
  "pseudo_labels": ["data=mnist,share=1.0,duplicates=none"],
  "study_own_mistakes": ["size=small"],
  "study_confident_mistakes": ["size=small"],
  **{f"study_{name}": ["size=small"] for name in ("constructed_sets", "just_bugs")},
}
CASES = [f"{name}:{arg}" for name in config_lib.shipped() for arg in ("", *ARGUMENTS.get(name, []))]
SMOKE = {
  "trades": "cifar10_trades_ddpm:cutmix,smoke",
  "adversarial": "cifar10_adversarial:smoke",
  "multi_exit": "fast_training:smoke",
  "grad_align": "fast_training:method=grad_align,net=small,smoke",
  "free": "fast_training:method=free,net=small,smoke",
  "standard": "cifar10_adversarial:attack=none,smoke",
  "denoising": "diffusion:smoke",
  **{name: f"mnist_smoothing:method={name},smoke" for name in SMOOTHING},
}


class FakeSource:
  """What the builders ask of a training set."""

  num_examples, num_classes = 50_000, 10


@functools.cache
def shapes_of(net, image_shape):
  """Shapes of a net's variables."""
  inputs = state.example_inputs(net, image_shape)
  init = functools.partial(net.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), *inputs)


@pytest.mark.parametrize("reference", CASES)
def test_config_is_data_and_builds(reference):
  config = config_lib.load(reference)
  data = config_lib.to_data(config)
  again = config_lib.from_data(json.loads(json.dumps(data)))
  assert config_lib.to_data(again) == data
  net = build.model(config, FakeSource.num_classes)
  assert net == build.model(again, FakeSource.num_classes)
  variables = shapes_of(net, (28, 28, 1) if config.data.name == "mnist" else (32, 32, 3))
  assert variables["params"]
  for built in (config, again):
    transformation = training.make_optimizer(built, FakeSource)
    assert jax.eval_shape(transformation.init, variables["params"])
    assert callable(training.training_method(built).make_update)
    assert set(evaluation.make_evaluators(built)) == set(built.evals)
    assert callable(augment.make_prepare(num_classes=10, **build.block(built, "augment")))
    batch = built.batch
    law = mixture.composition(
      batch.size,
      original_share=batch.original_share,
      emulated_workers=batch.emulated_workers,
      num_slices=batch.num_slices,
    )
    assert law.num_original + law.num_generated == batch.size
    assert training.duration(built, "total", FakeSource) > 0


def test_released_batch_is_308_originals_and_716_generated():
  batch = config_lib.load("cifar10_trades_ddpm").batch
  law = mixture.composition(
    batch.size, original_share=batch.original_share, emulated_workers=batch.emulated_workers
  )
  assert (law.num_original, law.num_generated, law.num_distinct) == (308, 716, 77)


def test_every_objective_has_a_smoke_run():
  assert SMOKE.keys() == {*objectives.OBJECTIVES, *objectives.UPDATES} - {"toy"}


@pytest.mark.parametrize(
  "objective", mostly_thorough(SMOKE, *({*SMOKE} - {*SMOOTHING[1:5], "multi_exit"}))
)
def test_smoke_run(objective, tmp_path):
  """TRADES on all devices, the others on one."""
  backend = "tfdata" if objective == "trades" else "resident"
  command = [
    f"--config={SMOKE[objective]}", f"--workdir={tmp_path}", f"--config.batch.backend={backend}",
    "--config.trackers=", "--config.save_steps=2",
  ]  # fmt: skip
  with contextlib.nullcontext() if objective == "trades" else one_device():
    assert main.main(command) == 0
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [(row["step"], row["kind"]) for row in rows] == [
    (1, "train"), (2, "train"), (2, "evaluate"),
  ]  # fmt: skip
  assert all(np.isfinite(list(row.values())[2:]).all() for row in rows)
  assert json.loads((tmp_path / "config.json").read_text())["objective"]["name"] == objective
  assert json.loads((tmp_path / "results" / "train.json").read_text())["step"] == 2


@pytest.mark.parametrize("method", SMOOTHING)
@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_published_chunks_are_batches(method, sigma):
  """A batch of 256, cut into as many chunks as an image has noises, but for MACER's."""
  for data in ("mnist", "cifar10"):
    config = config_lib.load(f"{data}_smoothing:method={method},sigma={sigma}")
    chunks = 1 if method == "macer" else config.objective.get("num_noise_vec", 1)
    assert config.batch.size * chunks == 256
    assert config.objective.sigma == evaluation.noise_level(config) == sigma


def test_smoothmix_ends_eight_sigma_away():
  for name, steps in (("mnist_smoothing", (4, 8)), ("cifar10_smoothing", (4, 4))):
    for sigma, num_steps in zip((0.5, 1.0), steps, strict=True):
      objective = config_lib.load(f"{name}:sigma={sigma}").objective
      assert objective.num_steps == num_steps and objective.alpha * num_steps == 8 * sigma
