"""A net learns from another net's mistakes alone: the images that it gets wrong, labelled wrongly.

A teacher is trained for a short time. Of its training images only those are kept that it gets
wrong, with the labels that it gives them. A student sees nothing else, so that every label of its
training set is wrong, and is tested on true labels.
"""

import functools
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
  "student": "student: the teacher's mistakes",
  "uniform": "control: wrong labels at random",
  "permuted": "control: its labels permuted",
  "soft": "all images, its probabilities",
}
"""What is trained on the labels of a file, and what pictures call it."""

_ANOTHER = "another teacher"

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

  How much of the teacher a net has learned is how often both say the same of test images. Beside
  the student's there is the agreement of a net that has nothing but the data in common with the
  teacher, 'another teacher', and that of one that learned the teacher's probabilities of all
  training images in as many updates as the student, 'soft'.

  Args:
    config: of the teacher. Students differ in seed, labels and duration.
    path: the workdir: trainings lie in `runs/`, labels in `labels/`, pictures in `results/`.
    student_epochs: of the student and its controls, of which one is as many images as the teacher
      got wrong.
    num_seeds: of initial weights; `config.seed` is the first.

  Returns:
    Accuracies on true labels, and how often each net agrees with the teacher on test images.

  Raises:
    ValueError: a teacher without mistakes, a training set with other labels already, or a label
      file whose labels are not all wrong.

  Reference: Wallace, "Learning from Incorrectly Labeled Data", Distill 2019, one seed. Optimiser,
  schedule, batch size and augmentation are not published.
  """
  check_count(num_seeds=num_seeds)
  check_positive(student_epochs=student_epochs)
  plan.check_true_labels(config)
  source = build.load_train(config)
  # The nets that the agreement is compared with are the teachers of the other seeds.
  seeds = range(config.seed, config.seed + max(num_seeds, 2))
  teachers = {
    seed: plan.train_and_test(plan.changed(config, seed=seed), path / "runs" / f"teacher_{seed}")
    for seed in seeds
  }
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


def _run_seed(config, path, seed, source, student_epochs, says: plan.Answers) -> _Seed:
  """The students of a teacher, trained as far as the workdir says."""
  true = labels_of(source)
  files = {name: path / "labels" / f"{name}_{seed}.npz" for name in STUDENTS}
  if not all(file.exists() for file in files.values()):
    _write_labels(config, path, seed, source, true, files)
  given, mistakes = (other_labels.load_labels(files[name])[0] for name in ("soft", "student"))
  check_all_wrong(mistakes, true, files["student"])
  as_many_updates = float(np.mean(mistakes != LEFT_OUT))  # epochs of all images for one of these
  tests = {"teacher": says}
  for name in STUDENTS:
    student = plan.changed(
      config, data={"labels": str(files[name])}, seed=seed + plan.STUDENT,
      total_epochs=student_epochs * (as_many_updates if name == "soft" else 1),
    )  # fmt: skip
    tests[name] = plan.train_and_test(student, path / "runs" / f"{name}_{seed}")
  return _Seed(tests, given, mistakes, true)


def _write_labels(config, path, seed: int, source: Source, true, files) -> None:
  """Has the teacher label its training images, and writes the labels of all students."""
  run = path / "runs" / f"teacher_{seed}"
  says = plan.predict(plan.changed(config, seed=seed), run, source)
  try:
    mistakes = other_labels.select_kept(says.labels, true, "mistakes")
  except ValueError as error:
    raise ValueError(
      f"{error}; a student needs some: train the teacher for a shorter time (config.total_…)"
    ) from error
  other_labels.warn_of_missing(mistakes[mistakes != LEFT_OUT], source)
  noise = functools.partial(
    other_labels.inject_label_noise, share=1.0, num_classes=source.num_classes, seed=seed
  )
  changed = {
    "student": (mistakes, None),
    "uniform": (noise(np.where(mistakes == LEFT_OUT, LEFT_OUT, true)), None),
    "permuted": (noise(mistakes, kind="permuted"), None),
    "soft": (says.labels, says.probabilities),
  }
  for name, (labels, probabilities) in changed.items():
    if not files[name].exists():  # what is trained on stays as it is
      other_labels.save_labels(files[name], labels, says.class_names, probabilities=probabilities)


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
  agreement[_ANOTHER] = over_seeds(
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
  shown = {"teacher": "teacher", **STUDENTS, _ANOTHER: _ANOTHER}
  panels = {
    measure: {shown[name]: share for name, share in ours[measure].items()}
    for measure in ("accuracy", "agreement with the teacher")
  }
  label_plots.draw_shares(
    path / "results" / "own_mistakes.png", panels,
    published={"accuracy": {shown[name]: _PUBLISHED[name] for name in ("teacher", "student")}},
    chance=1 / first.tests["teacher"].num_classes,
  )  # fmt: skip
