"""The adversarially trained net whose attacks by the reference programs are recorded."""

import jax
import jax.numpy as jnp
import numpy as np

_MEAN, _STDDEV = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_STRIDES = (1, 2, 1, 2, 1)


def load(oracles):
  """The arrays of the file: images, labels, weights, and what the reference found."""
  return np.load(oracles / "autoattack" / "cifar10_cnn.npz")


def images_and_labels(recorded):
  """Images `[200, 32, 32, 3]` in [0, 1] and their labels."""
  return jnp.asarray(recorded["images_uint8"] / np.float32(255)), jnp.asarray(recorded["labels"])


def make_logits_fn(recorded):
  """The net as a function of images `[b, 32, 32, 3]` in [0, 1]."""
  weights = {
    name.removeprefix("weights/"): np.asarray(recorded[name])
    for name in recorded.files
    if name.startswith("weights/")
  }

  mean, stddev = (
    np.asarray(recorded[name] if name in recorded.files else default).reshape(1, 1, 1, -1)
    for name, default in (("mean", _MEAN), ("std", _STDDEV))
  )

  def logits_fn(x):
    w = {name: jnp.asarray(value, x.dtype) for name, value in weights.items()}
    x = (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(stddev, x.dtype)
    for i, stride in enumerate(_STRIDES):
      kernel = w[f"convs.{i}.weight"]
      dimensions = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "OIHW", "NHWC"))
      x = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=dimensions
      )
      scale = w[f"bns.{i}.weight"] / jnp.sqrt(w[f"bns.{i}.running_var"] + 1e-5)
      shift = w[f"bns.{i}.bias"] - w[f"bns.{i}.running_mean"] * scale
      x = jax.nn.relu(x * scale.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1))
    x = jnp.mean(x, axis=(1, 2))
    return x @ w["fc.weight"].T + w["fc.bias"].reshape(1, -1)

  return logits_fn
