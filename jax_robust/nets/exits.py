"""Exits: what a tuple of outputs means, and which of them answers.

A multi-exit net returns a tuple with one array of logits `[b, k]` per exit, early exits first. The
last exit answers, unless `select_exit` chooses another. Losses of a tuple are the mean over the
exits (`losses.over_exits`), which is what a gradient attack on the whole tuple ascends.
"""

import functools
import operator
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jax_robust.nets.constants import without_jit
from jax_robust.types import LogitsFn

Exit: TypeAlias = int | str
"""A number; 'last'; 'mean'; or 'mean:K', the mean of exits 0 to K: see `select_exit`."""


def exits_of(outputs: Any, num_images: int | None = None) -> tuple[Array, ...]:
  """The exits of a classifier's outputs; a single array of logits is the only exit.

  The one place that says what logits are. It looks at shapes and dtypes, so it works under tracing.

  Args:
    outputs: logits `[b, k]` of at least two classes, or a tuple of such arrays of one shape.
    num_images: b, where it is known.

  Returns:
    A tuple with one array per exit.

  Raises:
    TypeError: logits that are not floating-point, such as predicted classes.
    ValueError: neither of the two, such as `(logits, features)` or a dict; one logit, of a model
      that ends in a sigmoid; logits of another number of images.

  >>> [each.shape for each in exits_of((jnp.zeros((1, 3)), jnp.ones((1, 3))))]
  [(1, 3), (1, 3)]
  """
  exits = outputs if isinstance(outputs, tuple) else (outputs,)
  if not exits or not all(hasattr(z, "ndim") and hasattr(z, "dtype") for z in exits):
    raise ValueError(
      f"logits_fn returned {described(outputs)}: expected logits [b, k], or a tuple of them with "
      f"one entry per exit; wrap it, such as lambda x: {_logits_of(outputs)}"
    )
  if len({z.shape for z in exits}) > 1:
    raise ValueError(
      f"logits_fn returned {described(outputs)}: expected a tuple of exits, all of one shape "
      f"[b, k]; if the first is the logits, write lambda x: {_logits_of(outputs)}"
    )
  for logits in exits:
    _check_logits(logits, num_images)
  return exits


def _check_logits(logits: Any, num_images: int | None) -> None:
  """Raises unless an array is logits `[b, k]`, by its shape and dtype."""
  said = f"logits_fn returned shape {logits.shape} and dtype {logits.dtype}"
  if logits.shape in ((num_images,), (num_images, 1)) or logits.shape[1:] == (1,):
    raise ValueError(
      f"{said}, one logit per image: expected one per class; of a sigmoid, "
      "jnp.stack([-z, z], axis=1) with z = model(x).reshape(-1)"
    )
  if logits.ndim != 2:
    more = "; of one logit z [b], as of a sigmoid, jnp.stack([-z, z], axis=1)"
    raise ValueError(f"{said}: expected logits [b, k]{more if logits.ndim == 1 else ''}")
  if logits.shape[1] < 2:
    raise ValueError(f"{said}: expected logits [b, k] of at least 2 classes")
  if num_images is not None and logits.shape[0] != num_images:
    raise ValueError(f"{said} for {num_images} images: expected logits [{num_images}, k]")
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise TypeError(f"{said}: expected floating-point logits, before any arg max or comparison")


def predictions(outputs: Any) -> Array:
  """The logits that answer: those of the last exit.

  >>> predictions((jnp.zeros((1, 2)), jnp.ones((1, 2)))).tolist()
  [[1.0, 1.0]]
  """
  return exits_of(outputs)[-1]


def mean_of_exits(outputs: Any) -> Array:
  """The logarithm of the mean over the exits of softmax(logits): the exits as an ensemble.

  >>> mean = mean_of_exits((jnp.zeros((1, 2)), jnp.log(jnp.array([[1.0, 3.0]]))))
  >>> jnp.exp(mean).round(4).tolist()
  [[0.375, 0.625]]
  """
  exits = exits_of(outputs)
  log_probs = jnp.stack([jax.nn.log_softmax(z) for z in exits])
  return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(exits))


def single_exit(outputs: Any, name: str) -> Array:
  """The logits of a classifier with one exit.

  Args:
    outputs: what the classifier returned.
    name: the function that needs one array of logits, for the message.

  Raises:
    ValueError: there are several exits, none of which was chosen.
  """
  exits = exits_of(outputs)
  if len(exits) > 1:
    raise ValueError(
      f"logits_fn returned {len(exits)} exits: {name} needs one array of logits; choose with "
      "nets.select_exit(logits_fn, exit), exit being a number, 'last' or 'mean'"
    )
  return exits[0]


def select_exit(logits_fn: LogitsFn, exit: Exit) -> LogitsFn:
  """The classifier with one answer: that of one exit, or the mean of all.

  Guarantees:
    `selected_exit_keeps_the_rng`: of a randomised `(x, rng) -> outputs` the result takes `rng` too.

  Args:
    logits_fn: `x -> outputs`, or `(x, rng) -> outputs`.
    exit: number of the exit from 0, negative counted from the last; 'last'; 'mean', the mean of
      the exits' softmax, as logarithms; or 'mean:K', that of exits 0 to K, the ensemble of what is
      known when exit K answers. The mean of a single exit is that exit itself.

  Returns:
    The function with outputs `[b, k]`.

  Raises:
    ValueError: `exit` is none of these; (when called) the net has no such exit.

  >>> select_exit(lambda x: (x, 2 * x), 1)(jnp.ones((1, 2))).tolist()
  [[2.0, 2.0]]
  """
  place, is_mean = _read(exit)

  # A jitted function would copy its weights into every program: see `constants.lift`.
  logits_fn = without_jit(logits_fn)

  @functools.wraps(logits_fn)
  def logits_of_exit(*args):
    exits = exits_of(logits_fn(*args))
    if not -len(exits) <= place < len(exits):
      raise ValueError(f"exit={exit}: expected 0 to {len(exits) - 1}, the exits of this model")
    number = place % len(exits)
    # The mean of a single exit is that exit, not its log softmax.
    return mean_of_exits(exits[: number + 1]) if is_mean and number else exits[number]

  return logits_of_exit


def _read(exit: Any) -> tuple[int, bool]:
  """A choice of `select_exit` as the number of an exit, and whether the mean up to it is meant."""
  if isinstance(exit, str):
    name, _, number = exit.partition(":")
    if exit in ("last", "mean"):
      return -1, exit == "mean"
    if name == "mean" and number.isdecimal():
      return int(number), True
  elif not isinstance(exit, bool):
    try:
      return operator.index(exit), False  # of NumPy too
    except TypeError:
      pass
  raise ValueError(f"exit={exit!r}: expected a number, 'last' or 'mean', or such as 'mean:1'")


def described(outputs: Any) -> str:
  """The type, and of a tuple or list the shapes, for a message."""
  if isinstance(outputs, (tuple, list)):
    shapes = ", ".join(str(getattr(each, "shape", type(each).__name__)) for each in outputs)
    return f"a {type(outputs).__name__} of {shapes}"
  return f"a {type(outputs).__name__}"


def _logits_of(outputs: Any) -> str:
  """What a user may write to take the logits out of a model's outputs."""
  if hasattr(outputs, "logits"):
    return "model(x).logits"
  if isinstance(outputs, (tuple, list)):
    return "model(x)[0]" if isinstance(outputs, tuple) else "tuple(model(x))"
  names = [*outputs] if isinstance(outputs, Mapping) else []
  name = names[0] if names and "logits" not in names else "logits"
  return f"model(x)[{name!r}]"
