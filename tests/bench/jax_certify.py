"""Our CERTIFY, image by image: what `torch_certify.py` is compared with."""

import functools
import itertools
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from side_process import read_flags, tell, timed

from jax_robust import models, smoothing
from jax_robust.models import convert
from jax_robust.runs.devices import local_devices

BATCHES = (200, 400, 1000, 2000, 4000, 16000)
"""Those that are tried."""


def make_net(depth):
  """The module, the name of its layers in PyTorch, and the shape of its images."""
  if not depth:
    return models.create("lenet", num_classes=10), "lenet", (28, 28, 1)
  scale = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
  net = models.create("cifar_resnet", num_classes=10, depth=depth, **scale)
  return net, "cifar_resnet", (32, 32, 3)


def write_problem(path, depth, num_images):
  """Writes random weights, with running statistics of noise, and random images."""
  net, names, shape = make_net(depth)
  rng = np.random.default_rng(0)
  x = rng.random((num_images, *shape), np.float32)
  variables = jax.jit(net.init)(jax.random.key(0), x)
  if "batch_stats" in variables:
    for _ in range(100):  # so that activations keep their size through the layers
      _, updated = net.apply(variables, x, train=True, mutable=["batch_stats"])
      variables = {**variables, **updated}
  arrays = convert.to_torch(jax.device_get(variables), names=names)
  np.savez(path, images=x, **{f"weights/{name}": array for name, array in arrays.items()})


def load(path, depth):
  """The classifier and images `[n, h, w, c]` in [0, 1]."""
  net, names, shape = make_net(depth)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape)))
  variables = convert.from_torch(convert.load_arrays(path, prefix="weights/"), shapes, names=names)
  variables = jax.device_put(variables)
  return lambda x: net.apply(variables, x), np.load(path)["images"]


def rate(certifier, x, rng, num_draws):
  """Seconds per draw in full batches, and those of compiling."""
  size = certifier.args[0].batch_size
  total = max(num_draws // size, 1) * size
  few, took = functools.partial(certifier, n=total - 100, n0=100), []
  for _ in range(4):
    start = time.perf_counter()
    few(x, rng)
    took.append(time.perf_counter() - start)
  return min(took[1:]) / total, max(took[0] - min(took[1:]), 0.0)


def main():
  """Tunes the batch, says so, then certifies a few images for every line on stdin."""
  flags = read_flags(
    file="", depth=0, images=1, n=100_000, batch=0, tune=4000, sigma=0.5,
    write=0,  # write the file, with so many images
  )  # fmt: skip
  if flags.write:
    write_problem(flags.file, flags.depth, flags.write)
    return
  logits_fn, images = load(flags.file, flags.depth)

  def make(batch):
    sampler = smoothing.Sampler(
      logits_fn, image_shape=images.shape[1:], batch_size=batch,
      devices=local_devices("jit"),
    )  # fmt: skip
    return functools.partial(smoothing.certify_images, sampler, sigma=flags.sigma, n=flags.n)

  rng = jax.random.key(0)
  sizes = [flags.batch] if flags.batch else [size for size in BATCHES if size <= flags.tune]
  certifiers = {size: make(size) for size in sizes}
  found = {size: rate(certifiers[size], images[:1], rng, flags.tune) for size in sizes}
  certifier = certifiers[min(found, key=found.get)]
  turns = itertools.count()

  def work():
    ids = next(turns) * flags.images + np.arange(flags.images)
    found = certifier(images[ids % len(images)], rng, ids=ids)
    assert not math.isnan(float(np.sum(found.radius)))
    return {"shares": (found.count / found.total).tolist()}

  tell(
    what=f"jax {jax.__version__}, {jax.device_count()} {jax.default_backend()} devices",
    batch=certifier.sampler.batch_size,
    compile_seconds=min(found.values())[1],
    logits=np.asarray(jax.jit(logits_fn)(images)).tolist(),
  )
  for _ in sys.stdin:
    tell(**timed(work))


if __name__ == "__main__":
  main()
