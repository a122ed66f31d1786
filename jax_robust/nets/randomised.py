"""One form for deterministic and randomised classifiers."""

import inspect

import jax

from jax_robust.types import LogitsFn


def takes_rng(logits_fn: LogitsFn) -> bool:
  """Whether a classifier is a randomised one: a function of two required arguments, `(x, rng)`.

  >>> takes_rng(lambda x: x), takes_rng(lambda x, rng: x), takes_rng(lambda x, scale=1: x)
  (False, True, False)
  """
  try:
    parameters = inspect.signature(logits_fn).parameters.values()
  except (TypeError, ValueError):  # builtins have none
    return False
  positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
  return sum(p.kind in positional and p.default is p.empty for p in parameters) == 2


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

  >>> import jax, jax.numpy as jnp
  >>> noisy = keyed(lambda x, rng: x + jax.random.normal(rng, x.shape))
  >>> noisy(jnp.zeros((3, 2)), jax.random.split(jax.random.key(0), 3)).shape
  (3, 2)
  """
  if not takes_rng(logits_fn):
    return lambda x, keys: logits_fn(x)

  def one(image, key):
    return jax.tree.map(lambda outputs: outputs[0], logits_fn(image[None], key))

  return jax.vmap(one)
