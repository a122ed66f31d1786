"""Other labels for the images of a source: a teacher's, a file's, or wrong ones.

A label of `LEFT_OUT` takes its image out of the set, so that one array says what is learned and
from which images. Beside labels there may be probabilities, which are then what is learned.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_robust.atomic import write_atomically
from jax_robust.data import columns, files, npy
from jax_robust.data.evaluation import as_floats
from jax_robust.data.sources import (
  MAX_CLASSES,
  Source,
  check_source,
  checked_names,
  labels_of,
  select,
)
from jax_robust.errors import (
  DataFileError,
  check_count,
  check_function,
  check_name,
  check_share,
  warn,
)

LEFT_OUT = -1
KEEP = ("all", "mistakes", "correct")
NOISES = ("uniform", "permuted")

_MOST_IMAGES = 10**8  # of no set are there more

_REMEDY = (
  "Make it with numpy.save(FILE, labels), one integer for each image in the order of the set, "
  f"{LEFT_OUT} for an image that is left out; or numpy.savez(FILE, probabilities=…), [n, k]."
)


def with_labels(
  source: Source,
  labels: Any,
  *,
  probabilities: Any = None,
  class_names: Sequence[str] | None = None,
  name: str = "",
) -> Source:
  """A view of a source with other labels, without the images whose label is `LEFT_OUT`.

  Args:
    source: images, whose own labels and probabilities play no part.
    labels: integers `[n]`, one for each of its images.
    probabilities: `[n, k]`, of the classes of each image, for trainings to take in place of the
      labels; those of images that are left out are not looked at.
    class_names: what the labels number, where these are other classes than the source's; () if
      they have no names.
    name: what error messages call the view.

  Raises:
    ValueError: another number of labels than of images, labels that are no integers or number no
      class, probabilities that are none, or no image that is left.

  >>> from jax_robust.data.sources import array_source
  >>> source = array_source(np.zeros((3, 2, 2, 1), np.uint8), [0, 1, 1])
  >>> with_labels(source, [1, LEFT_OUT, 0]).read(np.array([1]))[1]
  array([0], dtype=int32)
  """
  check_source(source)
  name = name or f"{source.name} with other labels"
  labels = _integers(labels, f"the labels for {source.name}", source.num_examples)
  names = source.class_names if class_names is None else checked_names(class_names, name)
  num_classes = len(names) or source.num_classes
  if outside := sorted({*labels.tolist()} - {LEFT_OUT, *range(num_classes)}):
    raise ValueError(
      f"labels {outside[:5]} are outside 0 to {num_classes - 1}, the classes of {source.name}"
    )
  kept = np.flatnonzero(labels != LEFT_OUT)
  if not len(kept):
    raise ValueError(f"all {len(labels)} labels are {LEFT_OUT}: no image of {source.name} is left")
  chosen, left = labels[kept].astype(np.int32), select(source, kept, name)

  def read(indices):
    images, _ = left.read(indices)
    return images, chosen[indices]

  kept_columns = {k: column for k, column in left.columns.items() if k != columns.PROBABILITIES}
  view = Source(
    name, len(kept), source.image_shape, num_classes, read, class_names=names,
    read_labels=chosen.copy, rows=kept, columns=kept_columns,
  )  # fmt: skip
  if probabilities is None:
    return view
  if len(probabilities) != len(labels):
    raise ValueError(
      f"there are {len(probabilities)} rows of probabilities for {len(labels)} labels"
    )
  return columns.with_columns(view, {columns.PROBABILITIES: np.asarray(probabilities)[kept]})


def relabel(
  source: Source,
  predict_fn: Callable[[np.ndarray], Any],
  *,
  keep: str = "all",
  batch_size: int = 1024,
) -> Source:
  """A source with the labels that a net gives to its images.

  Args:
    source: images and their labels.
    predict_fn: `(images float32 [b, h, w, c] in [0, 1]) -> logits [b, k]`, such as a `logits_fn`.
    keep: 'all' images; the 'mistakes', where the net and the source's label differ; or the
      'correct' ones.
    batch_size: images that the net is given at once.

  Raises:
    TypeError: no source, or no function.
    ValueError: an unknown `keep`, outputs that are no logits `[b, k]`, or no image that is kept.

  Reference: Wallace, "Learning from Incorrectly Labeled Data", Distill 2019 (`keep='mistakes'`).
  """
  check_source(source)
  check_function(" of images that returns logits", predict_fn=predict_fn)
  check_name("keep", keep, KEEP)
  found = []
  for images, _ in source.batches(batch_size):
    logits = np.asarray(predict_fn(as_floats(images)))
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] != source.num_classes:
      raise ValueError(
        f"predict_fn returned {list(logits.shape)} for {len(images)} images, expected logits "
        f"[{len(images)}, {source.num_classes}]; of several exits choose one by nets.select_exit"
      )
    if not np.issubdtype(logits.dtype, np.floating):
      raise ValueError(
        f"predict_fn returned dtype {logits.dtype}, expected floating-point logits, before any "
        "arg max or comparison"
      )
    if not np.isfinite(logits).all():
      raise ValueError(f"predict_fn returned NaN or infinite logits for images of {source.name}")
    found.append(logits.argmax(1))
  given = np.concatenate(found)
  warn_of_missing(given, source)
  return with_labels(source, select_kept(given, labels_of(source), keep))


def select_kept(given: Any, true: Any, keep: str) -> np.ndarray:
  """The given labels `[n]`, with `LEFT_OUT` for those that are not kept: see `relabel`.

  Raises:
    ValueError: an unknown `keep`, labels that are no integers `[n]`, or nothing is kept.
  """
  check_name("keep", keep, KEEP)
  true = _integers(true, "true labels")
  given = _integers(given, "given labels", len(true))
  kept = {"all": given == given, "mistakes": given != true, "correct": given == true}[keep]
  if not kept.any():
    raise ValueError(
      f"keep={keep!r} leaves none of {len(given)} images: the net makes no "
      + ("mistakes here" if keep == "mistakes" else "correct prediction here")
    )
  return np.where(kept, given, LEFT_OUT).astype(np.int32)


def warn_of_missing(given: np.ndarray, source: Source) -> None:
  """Warns of classes that are never given: a net that is trained on the labels can't learn them."""
  missing = sorted({*range(source.num_classes)} - {*given.tolist()})
  if missing:
    names = [source.class_names[k] if source.class_names else k for k in missing]
    warn(
      f"no image of {source.name} was given the label {names}: a net that is trained on these "
      f"labels is wrong on all images of {len(missing)} of {source.num_classes} classes: at most "
      f"{1 - len(missing) / source.num_classes:.0%} are right where all classes are as frequent"
    )


def inject_label_noise(
  labels: Any, share: float, *, num_classes: int, seed: int, kind: str = "uniform"
) -> np.ndarray:
  """Labels of which a share is wrong, or moved.

  Args:
    labels: integers `[n]`; those that are `LEFT_OUT` stay so.
    share: of the labels, in [0, 1]; rounded to a whole number of them.
    num_classes: of the set.
    seed: of the draw.
    kind: 'uniform', another class, each with the same probability: all are wrong; or 'permuted',
      the chosen labels in a random order, which keeps how often each occurs: by chance some are
      right.

  Returns:
    int32 `[n]`.

  Raises:
    ValueError: an unknown kind, a share outside [0, 1], a seed that is none, or one class only;
      labels that are no integers `[n]`, or number no class.

  >>> labels = np.zeros(8, int)
  >>> sorted(inject_label_noise(labels, 0.25, num_classes=2, seed=0).tolist())
  [0, 0, 0, 0, 0, 0, 1, 1]
  """
  check_name("kind", kind, NOISES)
  check_share(share=share)
  check_count(2, num_classes=num_classes)  # for a label to be wrong
  check_count(0, seed=seed)
  labels = _integers(labels, "labels")
  if outside := sorted({*labels.tolist()} - {LEFT_OUT, *range(int(num_classes))}):
    raise ValueError(f"labels {outside[:5]} are outside 0 to {num_classes - 1}, the classes")
  noisy = np.array(labels, np.int32)
  rows = np.flatnonzero(noisy != LEFT_OUT)
  count = round(share * len(rows))
  # Raw bits and sorts: NumPy promises these for all its versions.
  bits = np.random.PCG64(seed).random_raw(3 * len(rows)).reshape(3, -1)
  chosen = rows[np.argsort(bits[0], kind="stable")[:count]]
  if kind == "permuted":
    noisy[chosen] = noisy[chosen[np.argsort(bits[1][:count], kind="stable")]]
  else:
    step = 1 + bits[2][:count] % np.uint64(num_classes - 1)
    noisy[chosen] = (noisy[chosen] + step.astype(np.int32)) % num_classes
  return noisy


def load_labels(
  path: str | os.PathLike, *, num_images: int | None = None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
  """Reads labels from a file: integers `[n]`, and the names of their classes if it has them.

  Args:
    path: a `.npy`, or an npz with `label`, or with `probabilities` `[n, k]`, of which the largest
      is the label and a row of NaN leaves its image out. For other classes than those of the images
      it has `class_names`.
    num_images: of the set, if it is known: a file of more or fewer is refused by its head, without
      being read.

  Raises:
    DataFileError: it is missing, damaged, or holds something else.
  """
  arrays = _read(path, num_images)
  return arrays["label"], arrays.get("class_names")


def load_probabilities(path: str | os.PathLike) -> np.ndarray | None:
  """Reads the probabilities, float32 `[n, k]`, of a file that `load_labels` takes, if it has any.

  Raises:
    DataFileError: as `load_labels`.
  """
  return _read(path).get(columns.PROBABILITIES)


def save_labels(
  path: str | os.PathLike,
  labels: Any,
  class_names: Sequence[str] = (),
  *,
  probabilities: Any = None,
) -> None:
  """Writes what `load_labels` and `load_probabilities` read, as an npz; whole or not at all.

  Raises:
    ValueError: labels that are no integers `[n]` of 32 bits, names that are none, or probabilities
      that are no floats `[n, k]`.
  """
  labels = _integers(labels, "labels")
  arrays: dict[str, Any] = {"label": labels.astype(np.int32)}
  if not np.array_equal(arrays["label"], labels):
    raise ValueError(f"labels: {labels[arrays['label'] != labels][:5]} are no integers of 32 bits")
  if len(class_names):
    arrays["class_names"] = np.array(checked_names(class_names, os.fspath(path)))
  if probabilities is not None:
    arrays[columns.PROBABILITIES] = _of_probabilities(np.asarray(probabilities), labels)[
      columns.PROBABILITIES
    ]
  write_atomically(path, lambda stream: np.savez(stream, **arrays))


def _read(path, num_images: int | None = None) -> dict[str, Any]:
  """What a file of labels holds, checked: `label`, and names and probabilities if it has them."""
  if not os.path.exists(path):
    raise DataFileError(path, "there is no such file", _REMEDY)
  try:
    with npy.open_file(path) as stream:
      is_array = stream.read(6) == b"\x93NUMPY"
    if is_array:
      _check_head(npy.row_file(path), "label", num_images)
      return {"label": npy.whole_array(path)}
    arrays: dict[str, Any] = {}
    with npy.open_npz(path) as archive:
      there = npy.member_names(archive)
      for name in {"label", columns.PROBABILITIES} & {*there}:
        _check_head(npy.member_header(archive, name), name, num_images)
      if "label" in there:
        arrays["label"] = npy.member_array(archive, "label")
      if columns.PROBABILITIES in there:
        probabilities = npy.member_array(archive, columns.PROBABILITIES)
        arrays |= _of_probabilities(probabilities, arrays.get("label"))
      if "label" not in arrays:
        raise ValueError(f"it has {there}, and neither 'label' nor 'probabilities'")
      if "class_names" in there:
        arrays["class_names"] = files.npz_names(archive, path)
    return arrays
  except (DataFileError, ValueError) as error:
    reason = getattr(error, "reason", error)
    raise DataFileError(path, f"can't be read as labels: {reason}", _REMEDY) from error


def _check_head(head: npy.Header | npy.RowFile, name: str, num_images: int | None) -> None:
  """Raises ValueError unless an array may be labels or probabilities, as far as its head says."""
  shape, found = head.shape, f"{head.dtype}{list(head.shape)}"
  num = "n" if num_images is None else str(num_images)
  if name == "label" and (len(shape) != 1 or head.dtype.kind not in "iu"):
    raise ValueError(f"they are {found}, expected integers [{num}]")
  if name != "label" and (len(shape) != 2 or shape[1] < 2 or head.dtype.kind != "f"):
    raise ValueError(f"holds probabilities {found}, expected floats [{num}, k]")
  if shape[0] != num_images is not None or shape[0] > _MOST_IMAGES:
    most = f"at most {_MOST_IMAGES}" if num_images is None else f"{num}, one for each image"
    raise ValueError(f"the head of {name!r} announces {found}, expected {most}")
  if shape[1:] > (MAX_CLASSES,):
    raise ValueError(f"the head of {name!r} announces {found}: at most {MAX_CLASSES} classes")


def _of_probabilities(probs: np.ndarray, label: np.ndarray | None) -> dict[str, np.ndarray]:
  """Probabilities as float32, and labels that leave out what has none.

  Raises:
    ValueError: they are no numbers `[n, k]`, or of another number of images than the labels.
  """
  if probs.ndim != 2 or probs.dtype.kind != "f":
    raise ValueError(
      f"holds probabilities {probs.dtype}{list(probs.shape)}, expected floats [n, k]"
    )
  if label is not None and len(label) != len(probs):
    raise ValueError(f"holds {len(label)} labels and {len(probs)} rows of probabilities")
  unknown = np.isnan(probs).all(1)
  label = np.where(np.isnan(probs), -np.inf, probs).argmax(1) if label is None else label
  label = np.where(unknown, LEFT_OUT, label.astype(np.int64))
  return {"label": label, columns.PROBABILITIES: probs.astype(np.float32)}


def _integers(labels: Any, name: str, num: int | None = None) -> np.ndarray:
  """Labels as an array of integers `[n]`, of the number that is wanted if it is given.

  Raises:
    ValueError: they are something else, such as floats, of which a cast would change the classes.
  """
  found = np.asarray(labels)
  if (
    found.ndim != 1
    or not np.issubdtype(found.dtype, np.integer)
    or len(found) != (len(found) if num is None else num)
  ):
    wanted = "[n]" if num is None else f"[{num}], one for each image"
    raise ValueError(f"{name} are {found.dtype}{list(found.shape)}, expected integers {wanted}")
  return found
