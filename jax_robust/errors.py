"""What a user can do wrong: the exceptions, the near miss of a name, and every check of arguments.

Each check exists once and is called at every public entry that takes the argument. Checks look at
concrete values only: under `jax.jit` an array has a shape and a dtype but no values, so what is
said of values (range, NaN) is not checked there, and costs nothing.
"""

import difflib
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class UserError(ValueError):
  """A mistake in the command, the config, the data or the folder; the message says what to do."""


class ConfigError(UserError):
  """A config, or a change to it, is not usable."""


class DataFileError(UserError):
  """A data file or folder that cannot be used: which one, why, and what to do about it."""

  def __init__(self, path, reason: str, remedy: str):
    super().__init__(str(path), reason, remedy)  # all three as args, so that it can be pickled
    self.path, self.reason, self.remedy = str(path), reason, remedy

  def __str__(self) -> str:
    return f"{self.path}: {self.reason}. {self.remedy}"


class WorkdirError(UserError):
  """The workdir belongs to another run, or its files are damaged."""


_LONGEST_SHOWN = 200  # characters of a value in a message


def near_miss(name: Any, known: Iterable[str]) -> str:
  """`: did you mean …?` with the most similar of the known names, or else a list of them all.

  >>> near_miss("bata", ["beta", "attack"])
  ": did you mean 'beta'?"
  >>> near_miss("l7", ["sign", "adam"])
  ": expected one of 'adam', 'sign'"
  """
  known = sorted(known)
  close = difflib.get_close_matches(str(name)[:_LONGEST_SHOWN], known, n=1)
  if close:
    return f": did you mean {close[0]!r}?"
  return ": expected one of " + (", ".join(map(repr, known)) or "none")


def shown(value: Any) -> str:
  """The repr of a value; of a long one the beginning.

  >>> shown("8" * 1000) == "'" + "8" * 199 + "…"
  True
  """
  text = repr(value)
  return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def near_path(path: pathlib.Path) -> str:
  """`: did you mean …?` with the most similar name in the same folder; "" if there is none."""
  parent = path.parent
  try:
    names = [each.name for each in parent.iterdir()]
  except (OSError, ValueError):  # no folder, not ours to read, or no path at all
    return ""
  close = difflib.get_close_matches(path.name[:_LONGEST_SHOWN], names, n=1)
  return f": did you mean {str(parent / close[0])!r}?" if close else ""


def check_name(
  argument: str, value: Any, known: Iterable[str], *, error: type[Exception] = ValueError
) -> None:
  """Raises unless the value of an argument is one of the known names; with the near miss.

  >>> check_name("norm", "lnf", ("linf", "l2"))
  Traceback (most recent call last):
  ...
  ValueError: norm='lnf': did you mean 'linf'?
  """
  known = list(known)
  if value not in known:
    raise error(f"{argument}={shown(value)}{near_miss(value, known)}")


def check_options(
  where: str, options: Iterable[str], known: Iterable[str], *, error: type[Exception] = ConfigError
) -> None:
  """Raises for a key that is not among the known ones; `where` is the block it stands in, or "".

  >>> check_options("attack", ["epz"], ["eps"])
  Traceback (most recent call last):
  ...
  jax_robust.errors.ConfigError: unknown key 'attack.epz': did you mean 'eps'?
  """
  known = list(known)
  for option in options:
    if option not in known:
      key = f"{where}.{option}" if where else option
      raise error(f"unknown key {shown(key)}{near_miss(option, known)}")


def check_positive(**values: float) -> None:
  """Raises ValueError unless every value is above 0 and finite."""
  for name, value in values.items():
    if not 0 < value < math.inf:
      raise ValueError(f"{name}={value}: expected a finite number above 0")


def check_not_negative(**values: float) -> None:
  """Raises ValueError unless every value is at least 0 and not NaN."""
  for name, value in values.items():
    if not value >= 0:
      raise ValueError(f"{name}={value}: expected at least 0")


def check_count(least: int = 1, /, **counts: Any) -> None:
  """Raises ValueError unless every count is a whole number of at least `least`.

  >>> check_count(num_steps=0)
  Traceback (most recent call last):
  ...
  ValueError: num_steps=0: expected a whole number, at least 1
  """
  for name, count in counts.items():
    if isinstance(count, (bool, str)) or not count >= least or count != int(count):
      raise ValueError(f"{name}={count!r}: expected a whole number, at least {least}")


def check_sigma(sigma: float) -> None:
  """Raises ValueError unless sigma is a standard deviation, in units of images in [0, 1]."""
  if not 0 < sigma < math.inf:
    raise ValueError(
      f"sigma={sigma}: expected the standard deviation of the noise, above 0, in units of images "
      "in [0, 1]"
    )


def check_probability(**values: float) -> None:
  """Raises ValueError unless every value lies inside (0, 1)."""
  for name, value in values.items():
    if not 0 < value < 1:
      raise ValueError(f"{name}={value}: expected a probability inside (0, 1)")


def check_images(x: Any) -> None:
  """Raises unless x is a batch of floating-point images in [0, 1].

  Raises:
    TypeError: x is not floating-point: uint8 images would be projected onto {0, 1} silently.
    ValueError: there is no image, or a value is outside [0, 1] or NaN (not checked when traced).
  """
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"x has dtype {x.dtype}: expected floating-point images in [0, 1]")
  if np.ndim(x) < 2 or len(x) == 0:
    raise ValueError(
      f"x has shape {np.shape(x)}: expected images, first axis the batch's, at least 1"
    )
  if is_traced(x):
    return
  values = np.asarray(x)
  # Not `x < 0 or x > 1`: a NaN must fail the comparison.
  bad = np.flatnonzero(~((values >= 0) & (values <= 1)).reshape(len(values), -1).all(1))
  if bad.size:
    worst = values[bad[0]].ravel()
    worst = worst[~((worst >= 0) & (worst <= 1))][0]
    raise ValueError(
      f"x: images {first_few(bad)} leave [0, 1] or are not finite (image {bad[0]} holds {worst}): "
      "attacks and noise work in pixel space; put the normalisation into the model"
    )


def check_labels(labels: Any, num_classes: int) -> None:
  """Raises ValueError where an integer label is none of the model's classes (unless traced)."""
  if is_traced(labels):
    return
  values = np.asarray(labels)
  bad = np.flatnonzero((values < 0) | (values >= num_classes))
  if bad.size:
    raise ValueError(
      f"labels {first_few(values[bad])} of images {first_few(bad)} are outside 0 to "
      f"{num_classes - 1}, the classes of the model"
    )


def is_traced(value: Any) -> bool:
  """Whether a value is abstract, as it is inside `jax.jit` or `jax.grad`."""
  return isinstance(value, jax.core.Tracer)


def first_few(values: Sequence[Any] | np.ndarray) -> str:
  """The first five of many values, and how many more there are.

  >>> first_few([3, 1, 4, 1, 5, 9, 2])
  '3, 1, 4, 1, 5 and 2 more'
  """
  text = ", ".join(str(value) for value in values[:5])
  return f"{text} and {len(values) - 5} more" if len(values) > 5 else text
