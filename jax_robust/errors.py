"""What a user can do wrong: the exceptions, the near miss of a name, and every check of arguments.

Each check exists once and is called at every public entry that takes the argument. Shapes and
dtypes are always looked at, values only where they are concrete: under `jax.jit` an array has no
values, so its range, NaN in it, labels outside the classes, the size of a radius or of a sigma that
is an argument of the jitted function pass unseen there, and the checks cost nothing. What a jitted
function closes over, such as the labels of an attack that is called eagerly, is concrete.
"""

import contextlib
import difflib
import inspect
import math
import numbers
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class UserError(ValueError):
  """A mistake in the command, the config, the data or the folder; the message says what to do."""


class RobustnessWarning(UserWarning):
  """A reason to distrust a number that an attack or an evaluation returns."""


class TrackerWarning(UserWarning):
  """A tracker takes no more of a run's numbers; the run goes on."""


class ConfigError(UserError):
  """A config, or a change to it, is not usable."""


class DataFileError(UserError):
  """A data file or folder that cannot be used: which one, why, and what to do about it."""

  def __init__(self, path, reason: str, remedy: str):
    super().__init__(str(path), reason, remedy)  # all three as args, so that it can be pickled
    self.path, self.reason, self.remedy = str(path), reason, remedy

  def __str__(self) -> str:
    return f"{self.path}: {self.reason}. {self.remedy}"


class LostImagesError(UserError):
  """A model gives no finite logits for images that it is given; the message names them."""

  @classmethod
  def of(cls, ids: Any, what: str = "images") -> "LostImagesError":
    """The error for the images of these ids.

    >>> print(LostImagesError.of([3, 7]))
    the model's logits are NaN or infinite for images 3, 7: look at these images, ...
    """
    said = f"the model's logits are NaN or infinite for {what} {first_few(ids)}: look at these"
    return cls(f"{said} images, at the weights, and for logarithms and divisions in the model")


class WorkdirError(UserError):
  """The workdir belongs to another run, or its files are damaged."""


@contextlib.contextmanager
def brought_by(extra: str) -> Iterator[None]:
  """Around an import of another package: says by which extra of `jax_robust` it is installed.

  >>> with brought_by("plots"):
  ...   import no_such_module
  Traceback (most recent call last):
  ImportError: No module named 'no_such_module': pip install 'jax_robust[plots]'
  """
  try:
    yield
  except ModuleNotFoundError as error:
    message = f"{error}: pip install 'jax_robust[{extra}]'"
    raise ImportError(message, name=error.name, path=error.path) from error


_LONGEST_SHOWN = 200  # characters of a value in a message

_NOT_THE_CALLER = ("jax_robust", "jax", "jaxtyping", "beartype")


def warn(message: str, category: type[Warning] = RobustnessWarning) -> None:
  """Raises a warning at the caller's line, outside of this package and JAX."""
  level, frame = 1, inspect.currentframe()
  while frame and frame.f_globals.get("__name__", "").split(".")[0] in _NOT_THE_CALLER:
    level, frame = level + 1, frame.f_back
  warnings.warn(message, category, stacklevel=level)


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
  names = [name for name in names if name != path.name]  # a pipe, say, where a file is wanted
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


def check_positive(**values: Any) -> None:
  """Raises ValueError unless every value is above 0 and finite."""
  for name, value in values.items():
    if not _lies(value, lambda number: 0 < number < math.inf):
      raise ValueError(f"{name}={shown(value)}: expected a finite number above 0")


def check_not_negative(**values: Any) -> None:
  """Raises ValueError unless every value is at least 0 and not NaN."""
  for name, value in values.items():
    if not _lies(value, lambda number: number >= 0):
      raise ValueError(f"{name}={shown(value)}: expected at least 0")


def check_count(least: int = 1, /, **counts: Any) -> None:
  """Raises ValueError unless every count is a whole number of at least `least`.

  >>> check_count(num_steps=0)
  Traceback (most recent call last):
  ...
  ValueError: num_steps=0: expected a whole number, at least 1
  """
  for name, count in counts.items():
    if not _lies(count, lambda number: least <= number < math.inf and number == int(number)):
      raise ValueError(f"{name}={shown(count)}: expected a whole number, at least {least}")


def check_flag(**values: Any) -> None:
  """Raises TypeError unless every value is True or False: the text 'no' would count as true.

  >>> check_flag(keep_best="no")
  Traceback (most recent call last):
  ...
  TypeError: keep_best='no': expected True or False
  """
  for name, value in values.items():
    if not isinstance(value, (bool, np.bool_)):
      raise TypeError(f"{name}={shown(value)}: expected True or False")


def check_function(remedy: str = "", /, **functions: Any) -> None:
  """Raises TypeError unless every value can be called; the remedy says which function.

  >>> check_function(", such as losses.margin", loss_fn="margin")
  Traceback (most recent call last):
  ...
  TypeError: loss_fn='margin': expected a function, such as losses.margin
  """
  for name, function in functions.items():
    if not callable(function):
      raise TypeError(f"{name}={shown(function)}: expected a function{remedy}")


def as_numbers(values: Any, name: str) -> np.ndarray:
  """Numbers as a float64 array of their shape.

  Raises:
    TypeError: something else, such as text, None, or lists of several lengths.

  >>> as_numbers([1, None], "costs")
  Traceback (most recent call last):
  ...
  TypeError: costs=[1, None]: expected numbers
  """
  try:
    found = np.asarray(values)
  except ValueError:  # of several lengths
    found = np.asarray(None)
  if found.dtype == object and all(isinstance(each, numbers.Real) for each in found.flat):
    found = found.astype(np.float64)  # fractions
  if not _is_real_dtype(found.dtype):
    raise TypeError(f"{name}={shown(values)}: expected numbers")
  return found.astype(np.float64)


def _lies(value: Any, where: Callable[[Any], bool]) -> bool:
  """Whether a value is one real number, and lies there; a traced one is not looked at."""
  return is_traced(value) or (_is_real(value) and bool(where(value)))


MOST_SIGMA = 5.0
"""No noise in units of images in [0, 1] is larger: it would leave nothing of the image."""


def check_sigma(sigma: Any) -> None:
  """Raises ValueError unless sigma is a standard deviation, in units of images in [0, 1].

  >>> check_sigma(64)
  Traceback (most recent call last):
  ...
  ValueError: sigma=64: expected at most 5, in units of [0, 1]: did you mean 64/255 = 0.25?
  """
  if is_traced(sigma):
    return
  if not _is_real(sigma) or not 0 < sigma < math.inf:
    raise ValueError(
      f"sigma={sigma!r}: expected the standard deviation of the noise, above 0, in units of images "
      "in [0, 1]"
    )
  if sigma > MOST_SIGMA:
    raise ValueError(
      f"sigma={sigma}: expected at most {MOST_SIGMA:g}, in units of [0, 1]"
      f"{_of_255(sigma, MOST_SIGMA)}"
    )


def check_eps(eps: Any, norm: str, *, one: bool = False) -> None:
  """Raises unless eps is a radius in units of images in [0, 1], or an array of them.

  Args:
    eps: the radius.
    norm: of the ball.
    one: whether an array of several is refused.

  Raises:
    TypeError: it is no real number, nor an array of them.
    ValueError: a radius is negative, infinite or NaN; in l-infinity, above 1, which only 0 to 255
      can have been meant by (values are not looked at when traced); several, where one is expected.

  >>> check_eps(8, "linf")
  Traceback (most recent call last):
  ...
  ValueError: eps=8: expected at most 1 in linf, ...: did you mean 8/255 = 0.031?
  """
  if not _is_real(eps) and not (hasattr(eps, "dtype") and _is_real_dtype(eps.dtype)):
    dtype = f" of dtype {eps.dtype}" if hasattr(eps, "dtype") else ""
    raise TypeError(
      f"eps={eps!r}{dtype}: expected a radius in units of images in [0, 1], such as 8 / 255, or an "
      "array of them"
    )
  if one and np.ndim(eps):
    raise ValueError(f"eps has shape {np.shape(eps)}: expected one radius")
  if is_traced(eps):
    return
  values = np.asarray(eps, np.float64)
  bad = values[~((values >= 0) & (values < math.inf))]
  if bad.size:
    raise ValueError(
      f"eps={_shown(eps, bad)}: expected a finite radius >= 0, in units of images in [0, 1]"
    )
  if norm == "linf" and values.size and values.max() > 1:
    raise ValueError(
      f"eps={_shown(eps, values[values > 1])}: expected at most 1 in linf, as images are in [0, 1]"
      f"{_of_255(values.max(), 1.0)}"
    )


def check_step_size(**values: Any) -> None:
  """Raises unless every value is a finite number of at least 0, or an array of them.

  None, a default, and functions of the step number pass.
  """
  check_weight(**{k: v for k, v in values.items() if not (v is None or callable(v))})


def check_weight(**values: Any) -> None:
  """As `check_step_size`, but None and functions are refused too."""
  for name, value in values.items():
    if is_traced(value):
      continue
    if not _is_real(value) and not (hasattr(value, "dtype") and _is_real_dtype(value.dtype)):
      raise TypeError(f"{name}={shown(value)}: expected a number of at least 0")
    given = np.asarray(value, np.float64)
    bad = given[~((given >= 0) & (given < math.inf))]
    if bad.size:
      raise ValueError(f"{name}={_shown(value, bad)}: expected a finite number of at least 0")


def check_one(**values: Any) -> None:
  """Raises unless every value is one finite number of at least 0."""
  check_weight(**values)
  for name, value in values.items():
    if np.ndim(value):
      raise ValueError(f"{name} has shape {np.shape(value)}: expected one number")


def check_per_image(num_images: int, **values: Any) -> None:
  """Raises ValueError unless every value is one number, or one for each image.

  >>> check_per_image(3, weight=np.ones(2))
  Traceback (most recent call last):
  ...
  ValueError: weight has shape (2,): expected one number, or one for each of 3 images
  """
  for name, value in values.items():
    if np.shape(value) not in ((), (1,), (num_images,)):
      raise ValueError(
        f"{name} has shape {np.shape(value)}: expected one number, or one for each of "
        f"{num_images} images"
      )


def _is_real(value: Any) -> bool:
  """Whether it is one real number, of Python or an array; a bool is none."""
  if hasattr(value, "dtype"):
    return not np.ndim(value) and _is_real_dtype(value.dtype)
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_real_dtype(dtype: Any) -> bool:
  """Whether numbers of a dtype are integers or floating-point."""
  return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def _shown(value: Any, bad: np.ndarray) -> str:
  """A number as it was given, or what is wrong of an array of them."""
  return first_few(bad) if np.ndim(value) else str(value)


def _of_255(value: Any, most: float) -> str:
  """`: did you mean value/255?`, where that would be in range."""
  value = float(value)
  return f": did you mean {value:g}/255 = {value / 255:.2g}?" if value / 255 <= most else ""


def check_probability(**values: Any) -> None:
  """Raises ValueError unless every value lies inside (0, 1)."""
  for name, value in values.items():
    if not _lies(value, lambda number: 0 < number < 1):
      raise ValueError(f"{name}={shown(value)}: expected a probability inside (0, 1)")


def check_share(**values: Any) -> None:
  """Raises ValueError unless every value is one number in [0, 1].

  >>> check_share(rho=1.5)
  Traceback (most recent call last):
  ...
  ValueError: rho=1.5: expected a share, 0 to 1
  """
  for name, value in values.items():
    if not _lies(value, lambda number: 0 <= number <= 1):
      raise ValueError(f"{name}={shown(value)}: expected a share, 0 to 1")


def check_images(x: Any) -> None:
  """Raises unless x is a batch of floating-point images in [0, 1].

  Raises:
    TypeError: x is masked, or not floating-point: uint8 images would be projected onto {0, 1}.
    ValueError: there is no image, or a value is outside [0, 1] or NaN (not checked when traced).
  """
  if not hasattr(x, "dtype") or isinstance(x, np.ma.MaskedArray):  # whose mask would be ignored
    raise TypeError(f"x is a {type(x).__name__}: expected an array of images in [0, 1]")
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(
      f"x has dtype {x.dtype}: expected floating-point images in [0, 1]; of bytes, "
      "x.astype(np.float32) / 255"
    )
  if np.ndim(x) < 2 or len(x) == 0:
    raise ValueError(
      f"x has shape {np.shape(x)}: expected images, first axis the batch's, at least 1; of one "
      "image, x[None]"
    )
  if is_traced(x):
    return
  values = np.asarray(x)
  # Not `x < 0 or x > 1`: a NaN must fail the comparison.
  bad = np.flatnonzero(~((values >= 0) & (values <= 1)).reshape(len(values), -1).all(1))
  if bad.size:
    worst = next(value for value in values[bad[0]].ravel() if not 0 <= value <= 1)
    raise ValueError(
      f"x: images {first_few(bad)} leave [0, 1] or are not finite (image {bad[0]} holds {worst}): "
      "attacks and noise work in pixel space; put the normalisation into the model"
    )


_LARGEST_LABEL = 2**31 - 1

_SUM_TOLERANCE = 1e-2  # of probabilities: those of many classes in bfloat16 add up to no better


def check_targets(
  targets: Any,
  num_images: int | None = None,
  num_classes: int | None = None,
  name: str = "targets",
) -> None:
  """Raises unless targets are labels or probabilities, the one law of all attacks and losses.

  Labels are integers or bools, `[b]` or `[b, 1]`; probabilities, one-hot or soft, are `[b, k]` of
  any dtype.

  Args:
    targets: an array, or a list of numbers.
    num_images: b, if it is known.
    num_classes: k, if it is known.
    name: of the argument.

  Raises:
    TypeError: a vector that is not of integers, such as labels stored as floats.
    ValueError: another shape; another number of them; where values are concrete, a label outside
      the classes, or rows that are no probabilities.

  >>> check_targets([1, 0, 3], num_classes=3)
  Traceback (most recent call last):
  ...
  ValueError: labels 3 of images 2 are outside 0 to 2, the classes of the model
  """
  targets = as_array(targets, name)
  shape, dtype = np.shape(targets), targets.dtype
  said = f"{name} have shape {shape} and dtype {dtype}: expected integer labels [b]"
  is_label = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)
  if not is_label and not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(f"{said} or probabilities [b, k]")
  if not is_label and len(shape) == 1:
    raise TypeError(
      f"{said} or probabilities [b, k]; of labels stored as floats, {name}.astype(int)"
    )
  if len(shape) not in (1, 2) or (not is_label and shape[1] < 2):
    raise ValueError(f"{said} or probabilities [b, k]; of one image, {name}[None]")
  if num_images is not None and shape[0] != num_images:
    raise ValueError(f"{said}, one for each of {num_images} images; of one image, x[None]")
  if is_label and (len(shape) == 1 or shape[1] == 1):
    check_labels(np.reshape(targets, -1) if not is_traced(targets) else targets, num_classes)
    return
  if num_classes is not None and shape[1] != num_classes:
    raise ValueError(f"{said} or probabilities [b, {num_classes}], of the classes of the model")
  if is_traced(targets):
    return
  rows = np.asarray(targets, np.float64)
  off = ~(np.abs(rows.sum(1) - 1) <= _SUM_TOLERANCE) | ~(rows >= -1e-6).all(1)
  bad = np.flatnonzero(off)
  if bad.size:
    raise ValueError(
      f"{name} of images {first_few(bad)} are no probabilities, which are at least 0 and add up to "
      f"1 (image {bad[0]} has {first_few(rows[bad[0]])})"
    )


def as_array(values: Any, name: str) -> Any:
  """An array as it is, and a list as an array.

  Raises:
    TypeError: a tuple of arrays, or a masked one.
    ValueError: lists of several lengths.

  >>> as_array((np.array([1, 0]), np.array([1, 0])), "targets")
  Traceback (most recent call last):
  ...
  TypeError: targets are a tuple of 2 arrays: expected one array; targets of each exit are for ...
  """
  if isinstance(values, np.ma.MaskedArray):
    raise TypeError(f"{name} are a masked array, whose mask would be ignored: leave those rows out")
  if hasattr(values, "dtype"):
    return values
  if isinstance(values, tuple) and any(np.ndim(each) for each in values if hasattr(each, "dtype")):
    raise TypeError(
      f"{name} are a tuple of {len(values)} arrays: expected one array; targets of each exit are "
      "for losses.over_exits, and attacks that ascend it"
    )
  try:
    return np.asarray(values)
  except ValueError:
    raise ValueError(
      f"{name}={shown(values)} are lists of several lengths: expected one array"
    ) from None


def check_labels(labels: Any, num_classes: int | None = None) -> None:
  """Raises ValueError where an integer label is none of the model's classes (unless traced)."""
  if is_traced(labels):
    return
  values = np.asarray(labels)
  most = _LARGEST_LABEL if num_classes is None else num_classes - 1
  bad = np.flatnonzero((values < 0) | (values > most))
  if bad.size:
    known = "no classes, which count from 0"
    if num_classes is not None:
      known = f"outside 0 to {most}, the classes of the model"
    raise ValueError(f"labels {first_few(values[bad])} of images {first_few(bad)} are {known}")


def check_goals(goals: Any, labels: Any = None, num_classes: int | None = None) -> None:
  """Raises unless goals are integers `[b]`, each a class of the model and not the image's label.

  Args:
    goals: an array, or a list.
    labels: integers `[b]`, where they are known.
    num_classes: where it is known.

  Raises:
    TypeError: not integers.
    ValueError: another shape than that of the labels; a goal that is no class, or is the label (not
      checked when traced).

  >>> check_goals([1, 2], np.array([1, 0]))
  Traceback (most recent call last):
  ...
  ValueError: goals 1 of images 0 are the labels themselves: expected another class for each image
  """
  goals = goals if hasattr(goals, "dtype") else np.asarray(goals)
  if not jnp.issubdtype(goals.dtype, jnp.integer):
    raise TypeError(
      f"goals have dtype {goals.dtype}: expected integers [b], a class for each image"
    )
  if goals.ndim != 1 or (labels is not None and goals.shape != np.shape(labels)):
    expected = "[b]" if labels is None else np.shape(labels)
    raise ValueError(f"goals have shape {goals.shape}: expected {expected}, a class for each image")
  if is_traced(goals):
    return
  goals = np.asarray(goals)
  outside = (goals < 0) | (goals >= (_LARGEST_LABEL if num_classes is None else num_classes))
  if (bad := np.flatnonzero(outside)).size:
    of = "" if num_classes is None else f" to {num_classes - 1}, the classes of the model"
    raise ValueError(f"goals {first_few(goals[bad])} of images {first_few(bad)} are outside 0{of}")
  if labels is None or is_traced(labels):
    return
  if (same := np.flatnonzero(goals == np.asarray(labels))).size:
    raise ValueError(
      f"goals {first_few(goals[same])} of images {first_few(same)} are the labels themselves: "
      "expected another class for each image"
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
