"""What each method of fast adversarial training costs, on one net, in one run.

  XLA_FLAGS= pytest -m bench -n 0 -s tests/bench/test_bench_fast_training.py

Without `XLA_FLAGS=` it would measure the suite's quick compilation, whose programs are slow. The
methods step in turns, so that whatever else the machine does slows them alike. Batches are of one
size for all; a batch of Free training is used eight times, and its epochs are over the data.
JAX_ROBUST_BENCH='batch=32,rounds=5,blocks=2,channels=4,growth=4' changes the size.
"""

import os
import statistics
import time

import jax
import numpy as np
import pytest
from settings import sizes
from sides import PLATFORM

from jax_robust import config as config_lib
from jax_robust.runs.training import make_training, training_method
from jax_robust.train import parallel

METHODS = (
  "multi_exit", "standard", "pgd_7", "pgd_10", "trades", "free", "fast_fgsm", "n_fgsm",
  "grad_align",
)  # fmt: skip
NUM_TRAINING = 50_000  # images of CIFAR-10


def processor():
  """The name of the processor."""
  with open("/proc/cpuinfo") as lines:
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def make_data(folder):
  """A data set of noise, of CIFAR's shape."""
  draw = np.random.default_rng(0)
  for split, count in (("train", 512), ("test", 32)):
    images = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
    np.savez(folder / f"{split}.npz", image=images, label=np.arange(count) % 10)
  return f"{folder}/"


def make_config(method, data, size):
  """A method on a small MSDNet."""
  config = config_lib.load(f"fast_training:method={method},recipe=common")
  config.data.name = data
  config.batch.size = size["batch"]
  config.data.num_heldout = config.evaluation.num_examples = 8
  config.batch.backend = "resident"
  config.model = {
    "name": "msdnet", "num_blocks": size["blocks"], "base": 1, "step": 1,
    "channels": size["channels"], "growth": size["growth"], "growth_factors": (1, 2),
    "bottleneck_factors": (1, 2),
  }  # fmt: skip
  return config


def start(method, data, size):
  """`() -> seconds` of one more batch, after two; the compiled step; seconds of the first one."""
  began = time.perf_counter()
  training = make_training(make_config(method, data, size), mesh=parallel.data_mesh(1))
  state, batches = training.make_state(), training.make_batches(0)

  def work():
    nonlocal state
    batch = next(batches)
    began = time.perf_counter()
    state, metrics = jax.block_until_ready(training.step_fn(state, batch))
    assert np.isfinite(float(metrics["loss"]))
    return time.perf_counter() - began

  work()
  first = time.perf_counter() - began
  work()
  return work, training.step_fn, first


def show(seconds, first, size):
  """Prints the table; the hours are those of one batch after the other, without evaluation."""
  reference = statistics.median(seconds["multi_exit"])
  print(f"\n{size}, load {os.getloadavg()}, {PLATFORM}, {processor()}, jax {jax.__version__}")
  header = ("method", "s/batch", "ratio", "s/epoch", "epochs", "own, h", "ratio", "common, h",
            "ratio", "first s")  # fmt: skip
  print("".join(f"{name:>{12 if i == 0 else 10}}" for i, name in enumerate(header)))
  per_epoch = NUM_TRAINING / size["batch"]
  hours = {}
  for method, each in seconds.items():
    median = statistics.median(each)
    common = config_lib.load(f"fast_training:method={method},recipe=common")
    own = config_lib.load(f"fast_training:method={method}").total_epochs
    updates = training_method(common).updates_per_batch()
    assert common.total_epochs * updates == 100
    hours[method] = [median * per_epoch * count / 3600 for count in (own, common.total_epochs)]
    ratios = [a / b for a, b in zip(hours[method], hours["multi_exit"], strict=True)]
    print(
      f"{method:>12}{median:10.3f}{median / reference:10.2f}{median * per_epoch:10.0f}{own:10g}"
      f"{hours[method][0]:10.2f}{ratios[0]:10.2f}{hours[method][1]:10.2f}{ratios[1]:10.2f}"
      f"{first[method]:10.1f}"
    )


@pytest.mark.bench
def test_all_methods_on_one_net(tmp_path):
  """An FGSM costs two passes; PGD-10 eleven; and nothing is compiled twice."""
  size = sizes(batch=32, rounds=5, blocks=2, channels=8, growth=4)
  works, steps, first, seconds = {}, {}, {}, {}
  data = make_data(tmp_path)
  for method in METHODS:
    works[method], steps[method], first[method] = start(method, data, size)
  for _ in range(size["rounds"]):
    for method, work in works.items():
      seconds.setdefault(method, []).append(work())
  show(seconds, first, size)
  for method, step in steps.items():
    assert step._cache_size() == 1, f"{method} was compiled more than once"
  median = {method: statistics.median(each) for method, each in seconds.items()}
  assert median["standard"] < median["multi_exit"] < median["pgd_7"] < median["pgd_10"]
  assert median["multi_exit"] < median["free"], "eight passes against two"
