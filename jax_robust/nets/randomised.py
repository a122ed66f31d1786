"""One form for deterministic and randomised classifiers."""

import inspect

import jax

from jax_robust.errors import check_function
from jax_robust.nets.exits import exits_of
from jax_robust.types import LogitsFn

_NAMES = ("rng", "rngs", "key", "keys")
"""What the second parameter of a randomised model is called, or the last word of its name."""


_NO_VALUES = (
  jax.errors.ConcretizationTypeError,
  jax.errors.TracerArrayConversionError,
  jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where a function that it traces asks for values."""


def takes_rng(logits_fn: LogitsFn) -> bool:
  """Whether a classifier is a randomised one, `(x, rng)`: by the name of its second parameter.

  The name is `rng` or `key`, or ends so (`dropout_rng`, `prng_key`). Parameters that have a default
  are left at it, whatever their names: of `model(x, rng=None)` make `lambda x, rng: model(x, rng)`.

  Raises:
    TypeError: it is no function; it can't be called with images, or with images and a key: another
      parameter has no default, such as `train` or `mask`, or the key is keyword-only.

  >>> takes_rng(lambda x: x), takes_rng(lambda x, rng: x), takes_rng(lambda x, train=False: x)
  (False, True, False)
  """
  check_function(" of images x that returns logits", logits_fn=logits_fn)
  try:
    parameters = list(inspect.signature(logits_fn).parameters.values())
  except (TypeError, ValueError):  # builtins have none
    return False
  several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
  needed = [p for p in parameters if p.default is p.empty and p.kind not in several]
  by_place = [p.name for p in needed if p.kind is not p.KEYWORD_ONLY]
  is_randomised = len(by_place) > 1 and _is_key(by_place[1])
  left = [p.name for p in needed if p.name not in by_place[: 1 + is_randomised]]
  if left:
    remedy = f"lambda x: model(x, {left[0]}=...)"
    if _is_key(left[0]):
      remedy = f"lambda x, rng: model(x, {left[0]}=rng)"
    elif left[0] in ("x", "inputs", "image", "images"):
      remedy = f"lambda x: model({by_place[0]}, x)"
    raise TypeError(
      f"logits_fn takes ({', '.join(p.name for p in parameters)}): expected a function of images, "
      f"(x), or of a randomised model (x, rng); close over {left[0]!r}: {remedy}"
    )
  return is_randomised


def _is_key(name: str) -> bool:
  """Whether a parameter is a key by its name."""
  return name.lower().split("_")[-1] in (*_NAMES, "prngkey", "rngkey")


def keyed(logits_fn: LogitsFn) -> LogitsFn:
  """Gives every classifier one form: `(x [b, ...], keys [b]) -> outputs`.

  A randomised one is called with one image and its key at a time, under `vmap`, so that what an
  image gets depends neither on its place nor on its neighbours. Others ignore the keys.

  Guarantees:
    `noise_is_per_example`: row i depends on x[i] and keys[i] only.

  Args:
    logits_fn: `x -> outputs`, or `(x, rng) -> outputs` with one key for a batch.

  Returns:
    `(x, keys) -> outputs`.

  Raises:
    TypeError: as `takes_rng`; (when traced) it computes with NumPy.
    TypeError, ValueError: (when called) what it returns are no logits of these images (`exits_of`).

  >>> import jax, jax.numpy as jnp
  >>> noisy = keyed(lambda x, rng: x + jax.random.normal(rng, x.shape))
  >>> noisy(jnp.zeros((3, 2)), jax.random.split(jax.random.key(0), 3)).shape
  (3, 2)
  """

  def checked(x, *rng):
    try:
      outputs = logits_fn(x, *rng)
    except _NO_VALUES as error:
      raise TypeError(
        "logits_fn can't be traced by JAX: it computes with NumPy, or asks for the values of its "
        "images. Write it with jax.numpy; or let it only be queried, as `square` does: lambda x: "
        "jax.pure_callback(model, jax.ShapeDtypeStruct((len(x), num_classes), jnp.float32), x)"
      ) from error
    exits_of(outputs, len(x))
    return outputs

  if not takes_rng(logits_fn):
    return lambda x, keys: checked(x)

  def one(image, key):
    return jax.tree.map(lambda outputs: outputs[0], checked(image[None], key))

  return jax.vmap(one)
