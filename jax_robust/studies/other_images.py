"""A net learns digits from images of clothes: a teacher's labels for images of another kind.

A teacher learns one data set and labels the images of another, of which none shows what it knows.
A student sees these images and labels only, and is tested on the teacher's own test images.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_robust.data import labels as other_labels
from jax_robust.data.sources import Source
from jax_robust.errors import check_count, check_name
from jax_robust.evaluate import label_plots
from jax_robust.evaluate.intervals import Interval
from jax_robust.runs import build
from jax_robust.studies import Finding, plan

MODES = ("none", "own", "teacher", "matched")
_MATCHED = MODES[-1]
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
  seeds = range(config.seed, config.seed + num_seeds)
  measured = [_run_seed(config, path, seed, given, images, modes, moments) for seed in seeds]
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
    answer=plan.compare(best, Interval(_HELD, _HELD, _HELD)),
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
  return build.load_split(plan.changed(config, data={"name": images}), config.data.train_split)


def _run_seed(config, path, seed, given, images, modes, moments) -> dict[str, Any]:
  """A teacher and its students, trained as far as the workdir says."""
  teacher = _normalised(plan.changed(config, seed=seed), moments["teacher"])
  place = path / "runs" / f"teacher_{seed}"
  plan.train(teacher, place)
  says = plan.predict(teacher, place)
  files = {mode: path / "labels" / _file_name(seed, mode) for mode in modes}
  for mode, file in files.items():
    if not file.exists():
      seen = _normalised(teacher, moments["own"]) if mode == _MATCHED else teacher
      labels = plan.predict(seen, place, given).labels
      other_labels.warn_of_missing(labels, given)
      other_labels.save_labels(file, labels, says.class_names)
  shown = min(
    modes, key=lambda mode: mode == _MATCHED
  )  # labels of images as the teacher knows them
  labels, _ = other_labels.load_labels(files[shown])
  found: dict[str, Any] = {
    "teacher": says.accuracy, "student": {}, "agreement": {}, "confusion": {},
    "class_names": says.class_names,
    "histogram": np.bincount(labels, minlength=says.num_classes),
  }  # fmt: skip
  for mode, file in files.items():
    data = {"name": images, "labels": str(file), "test_name": config.data.name}
    student = _normalised(
      plan.changed(config, data=data, seed=seed + plan.STUDENT), _of_student(mode, moments)
    )
    run = path / "runs" / f"student_{seed}_{mode}"
    plan.train(student, run)
    tested = _normalised(student, moments["teacher"]) if mode == _MATCHED else student
    answers = plan.predict(tested, run)
    found["student"][mode] = answers.accuracy
    found["agreement"][mode] = answers.agreement(says)
    confusion = np.zeros((says.num_classes, says.num_classes), np.int64)
    np.add.at(confusion, (answers.true, answers.labels), 1)
    found["confusion"][mode] = confusion
  return found


def _file_name(seed: int, mode: str) -> str:
  """The file of the labels for a mode: all but one share those of the teacher's normalisation."""
  return f"teacher_{seed}{'_matched' if mode == _MATCHED else ''}.npz"


def _of_student(mode: str, moments: Mapping[str, Moments]) -> Moments | None:
  """What a student's training images are normalised by; None for nothing."""
  return {**moments, _MATCHED: moments["own"], "none": None}[mode]


def _normalised(config, moments: Moments | None) -> Any:
  """A config of a net that normalises by these moments."""
  mean, std = moments or Moments((0.0,), (1.0,))
  model = {**config.model.to_dict(), "mean": mean, "std": std}
  return plan.changed(config, model=model)


def _summary(measured: Sequence[Mapping[str, Any]], modes: Sequence[str]) -> dict[str, Any]:
  """Means over the seeds, with their 95 % intervals."""
  num_tested = int(next(iter(measured[0]["confusion"].values())).sum())

  def mean(get):
    return plan.over_seeds([get(each) for each in measured], num_tested)

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
