"""Random weights of LPIPS with few channels, under the names that PyTorch has for them."""

import numpy as np

from jax_robust.image_sets import lpips

WIDTHS = {"vgg16": (2, 2, 3, 3, 3, 4, 4, 4, 3, 3, 5, 5, 5), "alexnet": (3, 4, 5, 4, 3)}


def made(trunk, seed=0):
  """Random weights of a narrow trunk, under their PyTorch names, and what is to be left alone."""
  rng, width, plan, arrays = np.random.default_rng(seed), 3, lpips.TRUNKS[trunk], {}
  for number, (layer, out) in enumerate(zip(plan.layers, WIDTHS[trunk], strict=True)):
    size = plan.sizes[number]
    scale = (width * size**2) ** -0.5
    arrays[f"features.{layer}.weight"] = rng.normal(size=(out, width, size, size)) * scale * 2
    arrays[f"features.{layer}.bias"] = rng.normal(size=out) * 0.1
    width = out
    if number in plan.taps:
      tap = plan.taps.index(number)
      arrays[f"lin{tap}.model.1.weight"] = rng.uniform(size=(1, out, 1, 1))
  arrays["classifier.0.weight"] = np.zeros((2, 2))
  return {name: array.astype(np.float32) for name, array in arrays.items()}
