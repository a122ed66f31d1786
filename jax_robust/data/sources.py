"""`Source`, labelled images with random access, and `Stream`, labelled images in a fixed order.

Batches are made of sources. A set that is too large for RAM is a stream until `data.shard_writer`
has written it as shards, which are a source. Both have `num_examples`, `image_shape`, `num_classes`
and `batches()`.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_robust.data import scales
from jax_robust.errors import brought_by, check_count, check_name, first_few, shown, warn

Samples = tuple[np.ndarray, np.ndarray]
"""(images uint8 [n, h, w, c], labels int32 [n])."""

ImageShape = tuple[int, ...]
"""(height, width, channels)."""

Columns = Mapping[str, Callable[[np.ndarray], np.ndarray]]
"""What else is known of samples, by name: `read(indices int64 [n]) -> array [n, …]`."""

MAX_CLASSES = 100_000
"""More classes than any set has: a larger label is an id that was taken for a class."""


_FEWEST = 9  # samples whose order says something


@dataclasses.dataclass(frozen=True)
class Source:
  """Labelled images with random access.

  Guarantees:
    `stable_order`: index i is the same sample in every run and on every machine.
    `thread_safe`: `read` may be called from many threads at once.
    `indices_in_range`: one outside `[0, num_examples)` is an IndexError; none is wrapped around.

  Args:
    name: What error messages and results call it.
    num_examples: Number of samples.
    image_shape: (height, width, channels) of every image.
    num_classes: Labels lie in `[0, num_classes)`.
    read: `read(indices int64 [n]) -> (images uint8 [n, h, w, c], labels int32 [n])`, new arrays.
    class_names: What the classes are called, in the order of the labels; () if the data do not say.
    read_labels: `() -> labels int32 [num_examples]`, for those that have them without the images.
    rows: Which samples of a whole set these are, where they were drawn from it, or None.
    columns: What else is known of each sample, by name, such as a net's `confidence`. A view shows
      those of its samples.

  >>> source = array_source(np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, 1]))
  >>> source.read(np.array([2, 0]))[1]
  array([1, 0], dtype=int32)
  """

  name: str
  num_examples: int
  image_shape: ImageShape
  num_classes: int
  read: Callable[[np.ndarray], Samples]
  class_names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
  read_labels: Callable[[], np.ndarray] | None = dataclasses.field(default=None, kw_only=True)
  rows: np.ndarray | None = dataclasses.field(default=None, kw_only=True, compare=False)
  columns: Columns = dataclasses.field(default_factory=dict, kw_only=True, compare=False)

  def batches(self, batch_size: int = 1024) -> Iterator[Samples]:
    """Yields all samples in order, `batch_size` at a time."""
    check_count(batch_size=batch_size)
    for start in range(0, self.num_examples, batch_size):
      yield self.read(np.arange(start, min(start + batch_size, self.num_examples)))


@dataclasses.dataclass(frozen=True)
class Stream:
  """Labelled images in one fixed order, without random access.

  Args:
    name: What error messages and results call it.
    num_examples: Number of samples that `batches` yields.
    image_shape: (height, width, channels) of every image.
    num_classes: Labels lie in `[0, num_classes)`.
    batches: `batches()` starts from the first sample and yields (images, labels).
    class_names: As in `Source`.
  """

  name: str
  num_examples: int
  image_shape: ImageShape
  num_classes: int
  batches: Callable[[], Iterator[Samples]]
  class_names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)


def image_problem(images: Any) -> str | None:
  """Says what is wrong with the layout of images, or None; they need a shape and a dtype only."""
  if problem := shape_problem(images.shape):
    return problem
  if images.dtype != np.uint8:
    return f"the images' dtype is {images.dtype}, expected uint8{scales.remedy(images.dtype)}"
  return None


def shape_problem(shape: Sequence[int]) -> str | None:
  """Says what is wrong with the shape of images, or None; where it can be mended, how."""
  text = f"the images' shape is {list(shape)}, expected [n, height, width, 1 or 3]"
  if len(shape) == 3:
    return f"{text}: grey images get their axis by images[..., None]"
  if len(shape) != 4:
    return text
  if shape[0] == 0:
    return "it is empty: it holds no samples"
  if 0 in shape:
    return text
  if shape[3] in (1, 3):
    return None
  if shape[1] in (1, 3, 4):
    return f"{text}: the channels come first, put them last by images.transpose(0, 2, 3, 1)"
  if shape[3] in (2, 4):
    return f"{text}: {ALPHA}"
  return text


ALPHA = (
  "the last channel is alpha, which would be lost: put the image over a background of your choice "
  "(PIL.Image.alpha_composite) and save grey or RGB"
)


def label_problem(labels: np.ndarray, num_classes: int, first_row: int = 0) -> str | None:
  """Says which label lies outside `[0, num_classes)`, or None; `first_row` numbers `labels[0]`."""
  if num_classes > MAX_CLASSES:
    return (
      f"the largest label, {num_classes - 1}, makes {num_classes} classes, more than the "
      f"{MAX_CLASSES} of any set: number the classes from 0 on, by "
      "numpy.unique(labels, return_inverse=True)[1]"
    )
  outside = (labels < 0) | (labels >= num_classes)
  if not outside.any():
    return None
  row = int(np.argmax(outside))
  return (
    f"the label of sample {first_row + row} is {labels[row]}, "
    f"outside [0, {num_classes}) of num_classes={num_classes}"
  )


def label_layout_problem(labels: Any, num_images: int) -> str | None:
  """Says what is wrong with the layout of labels, or None; they need a shape and a dtype only."""
  if not np.issubdtype(labels.dtype, np.integer):
    return (
      f"the labels' dtype is {labels.dtype}, expected integers: the number of the class from 0 on "
      "(numpy.argmax(labels, 1) where they are one-hot)"
    )
  if len(labels.shape) != 1:
    remedy = ""
    if len(labels.shape) == 2:
      remedy = (
        ": labels.reshape(-1)" if labels.shape[1] == 1 else ": of one-hot, numpy.argmax(labels, 1)"
      )
    return f"the labels' shape is {list(labels.shape)}, expected [n]{remedy}"
  if labels.shape[0] != num_images:
    return f"there are {num_images} images but {labels.shape[0]} labels"
  return None


def layout_problem(images: Any, labels: Any) -> str | None:
  """Says what is wrong with the layout of images or of their labels, or None."""
  return image_problem(images) or label_layout_problem(labels, images.shape[0])


def as_indices(indices: np.ndarray, num_examples: int, name: str) -> np.ndarray:
  """Returns `indices` as int64 [n], all of them inside `[0, num_examples)`."""
  indices = np.asarray(indices)
  if indices.ndim != 1 or not (np.issubdtype(indices.dtype, np.integer) or indices.size == 0):
    raise IndexError(
      f"{name}: indices are {indices.dtype}{list(indices.shape)}, expected integers [n]"
    )
  outside = (indices < 0) | (indices >= num_examples)
  if outside.any():
    raise IndexError(f"{name}: index {indices[outside][0]} is outside [0, {num_examples})")
  return indices.astype(np.int64)


def array_source(
  images: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int | None = None,
  name: str = "arrays",
  class_names: Sequence[str] = (),
) -> Source:
  """A source over arrays in RAM (not copied: leave them unchanged afterwards).

  Args:
    images: uint8 [n, h, w, c].
    labels: integers [n].
    num_classes: None takes the largest label plus one.
    name: What error messages call it.
    class_names: What the classes are called, in the order of the labels, if that is known.

  Raises:
    ValueError: shapes, dtypes, labels or names do not fit.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  if problem := layout_problem(images, labels):
    raise ValueError(f"{name}: {problem}")
  if num_classes is None:
    num_classes = max(1, int(labels.max()) + 1)  # a negative label is named below
  check_count(num_classes=num_classes)
  num_classes = int(num_classes)
  if problem := label_problem(labels, num_classes):
    raise ValueError(f"{name}: {problem}")
  class_names = checked_names(class_names, name)
  if class_names and len(class_names) != num_classes:
    raise ValueError(f"{name}: there are {len(class_names)} class_names for {num_classes} classes")
  labels = labels.astype(np.int32)

  def read(indices):
    indices = as_indices(indices, len(images), name)
    return images[indices], labels[indices]

  return Source(
    name,
    len(images),
    images.shape[1:],
    num_classes,
    read,
    class_names=class_names,
    read_labels=labels.copy,
  )


def checked_names(class_names: Any, name: str) -> tuple[str, ...]:
  """Names of classes as a tuple, of which `name` is what they are the classes of.

  Raises:
    ValueError: they are no texts, or in no list, since one text would be its letters; one of them
      stands there twice.
  """
  is_list = not isinstance(class_names, (str, bytes)) and np.ndim(class_names) == 1
  found = tuple(class_names) if is_list else (None,)
  if not all(isinstance(each, str) for each in found):
    raise ValueError(
      f"{name}: class_names={shown(class_names)}: expected a list of texts, in the order of the "
      "labels"
    )
  names = tuple(map(str, found))
  if problem := names_problem(names):
    raise ValueError(f"{name}: {problem}")
  return names


def names_problem(names: Sequence[str]) -> str | None:
  """Says which name of a class stands there more than once, or None."""
  counts = collections.Counter(names)
  twice = [repr(name) for name in sorted(counts) if counts[name] > 1]
  return f"class_names has {first_few(twice)} twice, expected each name once" if twice else None


def check_source(source: Any) -> None:
  """Raises TypeError unless it is a source, with what makes one of arrays, a path or a stream."""
  if not isinstance(source, Source):
    remedy = (
      "a stream becomes one by data.convert.make_shards(stream, folder)"
      if isinstance(source, Stream)
      else "such as data.sources.array_source(images, labels) or data.convert.open_source(path)"
    )
    raise TypeError(f"source is a {type(source).__name__}: expected a Source; {remedy}")


def labels_of(source: Source) -> np.ndarray:
  """All labels of a source, int32 [n]; the images are read too where it can't do without."""
  check_source(source)
  if source.read_labels is not None:
    return source.read_labels()
  return np.concatenate([labels for _, labels in source.batches()])


def columns_at(columns: Columns, rows_of: Callable[[np.ndarray], np.ndarray]) -> Columns:
  """The columns of a view whose sample i is sample `rows_of(i)` of what they are columns of."""

  def view(read):
    return lambda indices: read(rows_of(indices))

  return {name: view(read) for name, read in columns.items()}


def select(source: Source, rows: np.ndarray, name: str) -> Source:
  """A view of the given samples of `source`, in their order; nothing is copied."""
  check_source(source)
  rows = as_indices(rows, source.num_examples, source.name)

  def rows_of(indices):
    return rows[as_indices(indices, len(rows), name)]

  return Source(
    name,
    len(rows),
    source.image_shape,
    source.num_classes,
    lambda indices: source.read(rows_of(indices)),
    class_names=source.class_names,
    read_labels=lambda: labels_of(source)[rows],
    rows=rows,
    columns=columns_at(source.columns, rows_of),
  )


def subset(source: Source, start: int, stop: int) -> Source:
  """A view of samples `start` to `stop` (exclusive) of `source`; nothing is copied."""
  check_source(source)
  for limit, value in (("start", start), ("stop", stop)):
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
      raise ValueError(f"{limit}={value!r}: expected a whole number")
  if not 0 <= start < stop <= source.num_examples:
    raise ValueError(
      f"start={start}, stop={stop}: expected 0 <= start < stop <= {source.num_examples}, "
      f"the number of samples of {source.name}"
    )
  name = f"{source.name}[{start}:{stop}]"

  def rows_of(indices):
    return as_indices(indices, stop - start, name) + start

  return Source(
    name,
    stop - start,
    source.image_shape,
    source.num_classes,
    lambda indices: source.read(rows_of(indices)),
    class_names=source.class_names,
    read_labels=lambda: labels_of(source)[start:stop],
    columns=columns_at(source.columns, rows_of),
  )


def warn_if_sorted(source: Source, num_first: int) -> None:
  """Warns where samples come sorted by class, so that the first ones stand for few classes.

  Neighbours then change their class less than half as often as in a random order, in which they do
  with probability 1 - sum p_c^2. Where the labels can't be had without the images, nothing is said.
  """
  if source.read_labels is None or source.num_examples < _FEWEST:
    return
  labels = source.read_labels()
  shares = np.unique(labels, return_counts=True)[1] / len(labels)
  changes, expected = np.mean(labels[1:] != labels[:-1]), 1 - np.sum(shares**2)
  if changes < expected / 2:
    few = len(np.unique(labels[:num_first]))
    warn(
      f"{source.name} comes sorted by class: its first {num_first} samples are of {few} of its "
      f"{len(shares)} classes; draw them by class (--config.data.draw=class, or data.draws)"
    )


def digits(split: str = "train") -> Source:
  """scikit-learn's 8×8 digits, which need no download: 1,437 for training, 360 for testing.

  The grey levels 0 to 16 are scaled to 0 to 255. The split is drawn once and for all, so that
  train and test never share a sample; another one is a ValueError.

  >>> digits("test").image_shape
  (8, 8, 1)
  """
  with brought_by("train"):
    from sklearn.datasets import load_digits

  check_name("split", split, ("train", "test"))
  data = load_digits()
  images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
  # Raw bits and a sort: NumPy promises these, unlike Generator.permutation, for all its versions.
  order = np.argsort(np.random.PCG64(0).random_raw(len(images)), kind="stable")
  chosen = order[:360] if split == "test" else order[360:]
  return array_source(
    images[chosen],
    data.target[chosen],
    num_classes=10,
    name=f"digits {split}",
    class_names=tuple(map(str, range(10))),
  )
