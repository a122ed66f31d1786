"""A net learns from another net's mistakes alone: the images that it gets wrong, labelled wrongly.

A teacher is trained for a short time. Of its training images only those are kept that it gets
wrong, with the labels that it gives them. A student sees nothing else, so that every label of its
training set is wrong, and is tested on true labels.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_robust.data import labels as other_labels
from jax_robust.data.labels import LEFT_OUT
from jax_robust.data.sources import Source, labels_of
from jax_robust.errors import check_count, check_positive
from jax_robust.evaluate import label_plots
from jax_robust.runs import build
from jax_robust.studies import Finding, plan

STUDENTS = {
  "student": "the teacher's mistakes",
  "uniform": "the same images with labels that are wrong at random",
  "permuted": "the same images with the teacher's labels permuted among them",
}
"""What is trained on the labels of a file, and on which."""

_PUBLISHED = {
  "teacher": 0.631, "teacher on its training images": 0.625, "mistakes": 18_768, "student": 0.497,
}  # fmt: skip


class _Seed(NamedTuple):
  """What one seed gave: tests of all nets by name, and the teacher's labels, `LEFT_OUT` allowed."""

  tests: Mapping[str, plan.Answers]
  given: np.ndarray
  mistakes: np.ndarray
  true: np.ndarray


def own_mistakes(
  config: Any, path: pathlib.Path, *, student_epochs: float, num_seeds: int = 3
) -> Finding:
  """Trains for each seed a teacher, a student on its mistakes, and controls.

  The controls have the student's images, initial weights and order of batches, and other labels:
  'uniform', any wrong class with the same probability; 'permuted', the teacher's labels in a random
  order, so that each is as frequent as before, and some are right by chance. Held is the claim
  where the student's 95 % interval lies above those of both.

  Args:
    config: of the teacher. Students differ in seed, labels and duration.
    path: the workdir: trainings lie in `runs/`, labels in `labels/`, pictures in `results/`.
    student_epochs: of the student and its controls, of which one is as many images as the teacher
      got wrong.
    num_seeds: of initial weights; `config.seed` is the first.

  Returns:
    Accuracies on true labels, and how often each net agrees with the teacher on test images, beside
    the agreement of the teacher of another seed.

  Raises:
    ValueError: a teacher without mistakes, a training set with other labels already, or a label
      file whose labels are not all wrong.

  Reference: Wallace, "Learning from Incorrectly Labeled Data", Distill 2019, one seed. Optimiser,
  schedule, batch size and augmentation are not published.
  """
  check_count(num_seeds=num_seeds)
  check_positive(student_epochs=student_epochs)
  if config.data.labels or config.data.label_noise:
    raise ValueError(
      f"data.labels={config.data.labels!r}, data.label_noise={config.data.label_noise}: this study "
      "makes the wrong labels itself; leave both out"
    )
  source = build.load_train(config)
  # The nets that the agreement is compared with are the teachers of the other seeds.
  seeds = range(config.seed, config.seed + max(num_seeds, 2))
  teachers = {seed: _train_and_test(_teacher(config, seed), path) for seed in seeds}
  found = [
    _run_seed(config, path, seed, source, student_epochs, teachers[seed])
    for seed in seeds[:num_seeds]
  ]
  ours = _summary(found, list(teachers.values()))
  if jax.process_index() == 0:
    _draw(path, ours, found[0])
  students = ours["accuracy"]
  return Finding(
    claim="A net trained only on the images that another net gets wrong, with the labels that this "
    "gives them, learns to classify images correctly.",
    answer=plan.compare(students["student"], students["uniform"], students["permuted"]),
    ours=ours,
    published=_PUBLISHED,
    num_seeds=num_seeds,
  )


def check_all_wrong(given: np.ndarray, true: np.ndarray, where: Any) -> None:
  """Raises ValueError unless every label `[n]` that is not left out is wrong."""
  right = np.flatnonzero(given == true)
  if len(right):
    raise ValueError(
      f"{where} gives image {right[0]} and {len(right) - 1} others their true label: a student of "
      "mistakes must see none; delete the file, and it is made again"
    )


def _teacher(config, seed: int) -> tuple[str, Any]:
  """Name and config of the teacher of a seed."""
  return f"teacher_{seed}", plan.changed(config, seed=seed)


def _train_and_test(named: tuple[str, Any], path: pathlib.Path) -> plan.Answers:
  """What a run says of the test images, once it is trained."""
  name, config = named
  plan.train(config, path / "runs" / name)
  return plan.predict(config, path / "runs" / name)


def _run_seed(config, path, seed, source, student_epochs, says: plan.Answers) -> _Seed:
  """The students of a teacher, trained as far as the workdir says."""
  true = labels_of(source)
  files = {name: path / "labels" / f"{name}_{seed}.npz" for name in ("teacher", *STUDENTS)}
  if not all(file.exists() for file in files.values()):
    _write_labels(config, path, seed, source, true, files)
  given, mistakes = (other_labels.load_labels(files[name])[0] for name in ("teacher", "student"))
  check_all_wrong(mistakes, true, files["student"])
  tests = {"teacher": says}
  for name in STUDENTS:
    student = plan.changed(
      config, data={"labels": str(files[name])}, seed=seed + plan.STUDENT,
      total_epochs=student_epochs,
    )  # fmt: skip
    tests[name] = _train_and_test((f"{name}_{seed}", student), path)
  return _Seed(tests, given, mistakes, true)


def _write_labels(config, path, seed: int, source: Source, true, files) -> None:
  """Has the teacher label its training images, and writes the labels of all students."""
  name, teacher = _teacher(config, seed)
  says = plan.predict(teacher, path / "runs" / name, source)
  try:
    mistakes = other_labels.select_kept(says.labels, true, "mistakes")
  except ValueError as error:
    raise ValueError(
      f"{error}; a student needs some: train the teacher for a shorter time (config.total_…)"
    ) from error
  other_labels.warn_of_missing(mistakes[mistakes != LEFT_OUT], source)
  changed = {
    "teacher": says.labels,
    "student": mistakes,
    "uniform": other_labels.inject_label_noise(
      np.where(mistakes == LEFT_OUT, LEFT_OUT, true), 1.0, num_classes=source.num_classes, seed=seed
    ),
    "permuted": other_labels.inject_label_noise(
      mistakes, 1.0, num_classes=source.num_classes, seed=seed, kind="permuted"
    ),
  }
  for name, labels in changed.items():
    other_labels.save_labels(files[name], labels, says.class_names)


def _summary(found: list[_Seed], teachers: list[plan.Answers]) -> dict[str, Any]:
  """Means over the seeds, with their 95 % intervals."""
  num_tested, num_images = len(teachers[0].true), len(found[0].true)

  def over_seeds(get, num=num_tested):
    return plan.over_seeds([get(i, each) for i, each in enumerate(found)], num)

  names = found[0].tests
  agreement = {
    name: over_seeds(lambda i, each, name=name: each.tests[name].agreement(each.tests["teacher"]))
    for name in names
    if name != "teacher"
  }
  agreement["teacher of another seed"] = over_seeds(
    lambda i, each: each.tests["teacher"].agreement(teachers[(i + 1) % len(teachers)])
  )
  return {
    "accuracy": {
      name: over_seeds(lambda i, each, name=name: each.tests[name].accuracy) for name in names
    },
    "agreement with the teacher": agreement,
    "teacher on its training images": over_seeds(
      lambda i, each: np.mean(each.given == each.true), num_images
    ),
    "mistakes": [int(np.sum(each.mistakes != LEFT_OUT)) for each in found],
    "labels_given": [_count(each.given, each).tolist() for each in found],
    "labels_of_mistakes": [_count(each.mistakes, each).tolist() for each in found],
  }


def _count(labels: np.ndarray, seed: _Seed) -> np.ndarray:
  """How often each class was given, `[k]`."""
  return np.bincount(labels[labels != LEFT_OUT], minlength=seed.tests["teacher"].num_classes)


def _draw(path: pathlib.Path, ours: Mapping[str, Any], first: _Seed) -> None:
  """The labels that the first teacher gave, and all accuracies."""
  names = first.tests["teacher"].class_names
  label_plots.draw_labels(
    path / "results" / "own_mistakes_labels.png",
    {
      "true": _count(first.true, first),
      "given by the teacher": _count(first.given, first),
      "given by mistake": _count(first.mistakes, first),
    },
    names,
  )
  label_plots.draw_shares(
    path / "results" / "own_mistakes.png",
    {
      "accuracy": ours["accuracy"],
      "agreement with the teacher": ours["agreement with the teacher"],
    },
    published={"accuracy": {name: _PUBLISHED[name] for name in ("teacher", "student")}},
    chance=1 / first.tests["teacher"].num_classes,
  )
