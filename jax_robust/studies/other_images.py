"""A net learns digits from images of clothes: a teacher's labels for images of another kind.

A teacher learns one data set and labels the images of another, of which none shows what it knows.
A student sees these images and labels only, and is tested on the teacher's own test images.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_robust import jobs
from jax_robust.data import labels as other_labels
from jax_robust.data.sources import Source
from jax_robust.errors import check_count, check_name
from jax_robust.evaluate import label_plots
from jax_robust.evaluate.intervals import mean_interval
from jax_robust.runs import build, exits, nets
from jax_robust.studies import PREEMPTED, Finding

MODES = ("none", "own", "teacher", "matched")
_HELD = 0.8  # of the test images, for the answer
_PUBLISHED = {"teacher": 0.991, "student": 0.9104, "student, MNIST's normalisation": 0.945}


class Moments(NamedTuple):
  """Mean and standard deviation of each channel of a set's pixels, in [0, 1]."""

  mean: tuple[float, ...]
  std: tuple[float, ...]


def other_images(
  config: Any,
  path: pathlib.Path,
  *,
  images: str,
  num_seeds: int = 3,
  modes: Sequence[str] = MODES,
) -> Finding:
  """Trains a teacher for each seed, and for each mode of normalisation a student on its labels.

  Args:
    config: of the teacher; `data.name` is its data set. Students differ in data and normalisation.
    path: the workdir: trainings lie in `runs/`, labels in `labels/`, the picture in `results/`.
    images: the other data set, named as `data.name` may be; its labels are not used.
    num_seeds: of initial weights; `config.seed` is the first.
    modes: how the student's images are normalised. 'none'; 'own', by the moments of its training
      images, test images too; 'teacher', by those of the teacher's training images; 'matched', each
      set by its own, so that both have the same moments, for the teacher's labels as well.

  Returns:
    Accuracies on the teacher's test images, the student's agreement with the teacher there, and how
    often the teacher gave each label.

  Raises:
    ValueError: an unknown mode, or none; images of another shape than the teacher's.

  Reference: Wallace, "Learning from Incorrectly Labeled Data", Distill 2019: MNIST through
  Fashion-MNIST. Its nets and schedules are not known.
  """
  check_count(num_seeds=num_seeds)
  if not modes:
    raise ValueError(f"modes=(): expected some of {MODES}")
  for mode in modes:
    check_name("modes", mode, MODES)
  theirs, given = build.load_train(config), _load(config, images)
  if theirs.image_shape != given.image_shape:
    raise ValueError(
      f"images={images!r} has image_shape {given.image_shape}, {theirs.name} has "
      f"{theirs.image_shape}: make images of one shape first"
    )
  moments = {"teacher": moments_of(theirs), "own": moments_of(given)}
  measured: list[dict[str, Any]] = []
  for seed in range(config.seed, config.seed + num_seeds):
    found = _run_seed(config, path, seed, given, images, modes, moments)
    if found is None:
      return PREEMPTED
    measured.append(found)
  ours = _summary(measured, modes)
  if jax.process_index() == 0:
    place = path / "results" / "other_images.png"
    first = measured[0]
    mode = "teacher" if "teacher" in modes else modes[0]
    label_plots.draw_labels_and_confusion(
      place, first["histogram"], first["confusion"][mode], first["class_names"]
    )
  best = max(ours["student"].values(), key=lambda each: each.value)
  return Finding(
    claim="A net trained on images of clothes, labelled by a net that knows digits only, "
    "recognises digits.",
    answer="held here" if best.low > _HELD else "not held here",
    ours=ours,
    published=_PUBLISHED,
    num_seeds=num_seeds,
  )


def moments_of(source: Source) -> Moments:
  """Mean and standard deviation of each channel over all pixels of a source."""
  total, sums = 0, np.zeros((2, source.image_shape[-1]))
  for images, _ in source.batches():
    x = images.reshape(-1, images.shape[-1]) / 255
    total += len(x)
    sums += x.sum(0), (x**2).sum(0)
  mean, square = sums / total
  return Moments(tuple(mean.tolist()), tuple(np.sqrt(square - mean**2).tolist()))


def _load(config, images: str) -> Source:
  """The training split of the other data set."""
  return build.load_split(_changed(config, {"name": images}), config.data.train_split)


def _run_seed(config, path, seed, given, images, modes, moments) -> dict[str, Any] | None:
  """A teacher and its students, trained as far as the workdir says; None if told to stop."""
  teacher = _changed(config, {}, seed=seed, normalised=moments["teacher"])
  place = path / "runs" / f"teacher_{seed}"
  if jobs.run(teacher, place)["preempted"]:
    return None
  says = _predictions(teacher, place)
  found: dict[str, Any] = {"teacher": says.accuracy, "student": {}, "agreement": {}}
  found |= {"confusion": {}, "class_names": says.class_names}
  for mode in modes:
    matched = mode == "matched"
    file = path / "labels" / f"teacher_{seed}{'_matched' if matched else ''}.npz"
    if not file.exists():
      seen = _changed(teacher, {}, normalised=moments["own"]) if matched else teacher
      labels = _predictions(seen, place, given).labels
      other_labels.warn_of_missing(labels, given)
      other_labels.save_labels(file, labels, says.class_names)
    if not matched or "histogram" not in found:
      labels, _ = other_labels.load_labels(file)
      found["histogram"] = np.bincount(labels, minlength=says.num_classes)
    student = _changed(
      config, {"name": images, "labels": str(file), "test_name": config.data.name},
      seed=seed + 1000, normalised=_of_student(mode, moments),
    )  # fmt: skip
    run = path / "runs" / f"student_{seed}_{mode}"
    if jobs.run(student, run)["preempted"]:
      return None
    tested = _changed(student, {}, normalised=moments["teacher"]) if matched else student
    answers = _predictions(tested, run)
    found["student"][mode] = answers.accuracy
    found["agreement"][mode] = float(np.mean(answers.labels == says.labels))
    confusion = np.zeros((says.num_classes, says.num_classes), np.int64)
    np.add.at(confusion, (answers.true, answers.labels), 1)
    found["confusion"][mode] = confusion
  return found


def _of_student(mode: str, moments: Mapping[str, Moments]) -> Moments | None:
  """What a student's training images are normalised by; None for nothing."""
  return {**moments, "matched": moments["own"], "none": None}[mode]


def _changed(config, data: Mapping[str, Any], *, seed=None, normalised=None) -> Any:
  """The config of a training or of a test, with its data, seed and normalisation."""
  run = config.copy_and_resolve_references()
  with run.unlocked(), run.ignore_type():
    run.job = "train"
    run.data.update(data)
    if "study" in run:
      del run["study"]
    if seed is not None:
      run.seed = seed
    mean, std = normalised or Moments((0.0,), (1.0,))
    run.model.mean, run.model.std = mean, std
  return run


class _Answers(NamedTuple):
  """What a net says of images `[n]`, and what they are."""

  labels: np.ndarray
  true: np.ndarray
  num_classes: int
  class_names: tuple[str, ...]

  @property
  def accuracy(self) -> float:
    return float(np.mean(self.labels == self.true))


def _predictions(config, place: pathlib.Path, source: Source | None = None) -> _Answers:
  """The classes that a run's net gives to the images of a source, or to its test images."""
  subject = nets.open_model(config, place)
  scored = exits.score(
    exits.make_predict(config, subject), source or subject.source,
    batch_size=config.evaluation.batch_size,
  )  # fmt: skip
  own = subject.source
  return _Answers(
    scored.outputs[-1].argmax(1), scored.labels, own.num_classes, tuple(own.class_names)
  )


def _summary(measured: Sequence[Mapping[str, Any]], modes: Sequence[str]) -> dict[str, Any]:
  """Means over the seeds, with their 95 % intervals."""
  mean = functools.partial(_mean, measured)
  ours: dict[str, Any] = {
    "teacher": mean(lambda each: each["teacher"]),
    "student": {mode: mean(lambda each, mode=mode: each["student"][mode]) for mode in modes},
    "agreement": {mode: mean(lambda each, mode=mode: each["agreement"][mode]) for mode in modes},
    "labels_given": [each["histogram"].tolist() for each in measured],
  }
  ours["nearest_to_published"] = {
    name: min(modes, key=lambda mode: abs(ours["student"][mode].value - value))
    for name, value in _PUBLISHED.items()
    if name != "teacher"
  }
  return ours


def _mean(measured, get):
  return mean_interval(np.array([get(each) for each in measured]))
