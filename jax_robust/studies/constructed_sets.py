"""Robust and non-robust features as training sets: what a net learns from each of four.

A standard and a robust teacher make sets out of the same images (`generate.constructed`). In D_R
and D_NR an image means to the robust or the standard teacher what an original of its label does,
and shows another one; in D_rand and D_det it is moved a little until the standard teacher takes it
for a label that is wrong. Students are trained on each in the standard way, and tested on true
images.
"""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_robust import config as config_lib
from jax_robust import jobs
from jax_robust.data import labels as other_labels
from jax_robust.data import shards
from jax_robust.data.labels import LEFT_OUT
from jax_robust.data.sources import Source, labels_of
from jax_robust.errors import check_count, check_name, check_options, check_positive
from jax_robust.evaluate import label_plots, tables
from jax_robust.evaluate.image_plots import ImageRow, draw_image_rows
from jax_robust.evaluate.intervals import Interval
from jax_robust.generate.constructed import INVERTED, TARGETED
from jax_robust.jobs import evaluate
from jax_robust.jobs.origins import ORIGINS, SHARDS
from jax_robust.models import normalization
from jax_robust.runs import build, nets, workdir
from jax_robust.runs.evaluation import attack_setting
from jax_robust.studies import Finding, plan

SETS = (*INVERTED, *TARGETED)
NAMES = {"d_robust": "D_R", "d_non_robust": "D_NR", "d_rand": "D_rand", "d_det": "D_det"}
MISTAKES = "own_mistakes"
"""The student of the images that a teacher of a few epochs gets wrong, with its labels."""

_OF_STUDENTS = ("augment", "batch", "ema", "model", "optimizer", "schedule")
"""The blocks of the config in which a student may differ."""

_EARLY = 2000  # added to the seed of the teachers for the one of a few epochs
_CLEAN, _NUM_IMAGES, _STANDARD = "clean", "num_images", {"name": "standard"}
_PICTURED = 10
_PUBLISHED = {
  "clean": {
    "standard": 0.9525, "robust": 0.9083, "d_robust": 0.8410, "d_non_robust": 0.8768,
    "d_rand": 0.633, "d_det": 0.437,
  },
  "0.25": {
    "standard": 0.0449, "robust": 0.8231, "d_robust": 0.4827, "d_non_robust": 0.0082, "d_rand": 0.0,
    "d_det": 0.0,
  },
}  # fmt: skip


def constructed_sets(
  config: Any,
  path: pathlib.Path,
  *,
  moved: dict,
  inverted: dict,
  early_epochs: float,
  students: dict | None = None,
  sets: Sequence[str] = SETS,
  num_seeds: int = 1,
) -> Finding:
  """Trains teachers, makes the sets, trains a student on each, and tests all under l2 attacks.

  Three students more are at equal net, schedule and number of images: of the mistakes of a teacher
  of a few epochs, which no perturbation made, and of as many images of D_rand and of D_det.

  Held is a claim where our 95 % interval lies above those that it is compared with, not held where
  our mean is not above theirs, undecided in between (`studies.plan.compare`):

  - D_R gives robustness: accuracy under attack, above those of the standard teacher and of D_NR.
  - D_NR gives accuracy and less robustness: accuracy above chance, under attack D_R's above its.
  - D_rand and D_det each generalise to true labels: accuracy above chance.
  - Mistakes need no perturbation: accuracy of their student above chance.

  Args:
    config: of the robust teacher; the others are trained by the objective `standard`. Its `evals`
      hold the attack of the tests, whose radius the claims are of; `evaluation.eps_list` has more.
    path: the workdir: trainings lie in `runs/`, sets in `sets/`, labels in `labels/`, pictures in
      `results/`.
    moved: `eps`, `num_steps` and so on of D_rand and D_det, as the job `generate` takes them.
    inverted: `num_steps` and so on of D_R and D_NR.
    early_epochs: of the teacher whose mistakes are learned from.
    students: by the name of the set, blocks of the config with the keys that its students have
      otherwise, such as `{"d_rand": {"schedule": {"learning_rate": 0.01}}}`.
    sets: which of them; without D_rand and D_det, none is compared with mistakes.
    num_seeds: of all that is drawn; `config.seed` is the first.

  Raises:
    ValueError: an unknown set or none, held-out images, or an option that the job `generate` would
      refuse.

  Reference: Ilyas et al., 2019, "Adversarial Examples Are Not Bugs, They Are Features",
  https://arxiv.org/abs/1905.02175; Wallace, "Learning from Incorrectly Labeled Data", Distill 2019.
  """
  check_count(num_seeds=num_seeds)
  check_positive(early_epochs=early_epochs)
  _check(config, sets, students or {})
  study = _Study(config, path, moved, inverted, early_epochs, students or {}, tuple(sets))
  found = [study.run_seed(seed) for seed in range(config.seed, config.seed + num_seeds)]
  ours = _summary(found)
  setting = attack_setting(config)
  assert setting is not None  # `_check`
  ours["answers"] = answers = _answers(ours, study.source.num_classes, f"{setting.eps:g}")
  if jax.process_index() == 0:
    study.draw(ours)
    print(_table(ours))
  return Finding(
    claim="Features that no one sees are enough to classify by: nets trained on sets whose labels "
    "only a net's features explain are right on true images; robust features give robustness, "
    "others none.",
    answer=plan.all_of(answers.values()),
    ours=ours,
    published=_PUBLISHED,
    num_seeds=num_seeds,
  )


def _check(config, sets: Sequence[str], students: Mapping[str, Any]) -> None:
  """Raises unless the sets are known and the config's runs train on all images."""
  if not sets:
    raise ValueError(f"sets=(): expected some of {SETS}")
  for each in sets:
    check_name("sets", each, SETS)
  check_options("study.students", students, (*SETS, MISTAKES))
  for name, changes in students.items():
    check_options(f"study.students.{name}", changes, _OF_STUDENTS)
  if config.data.num_heldout or config.data.labels or config.data.label_noise:
    raise ValueError(
      f"data.num_heldout={config.data.num_heldout}, labels={config.data.labels!r}, label_noise="
      f"{config.data.label_noise}: a set is made of all training images, with true labels; set "
      "them to 0, '' and 0"
    )
  if not any(entry.evaluator == "attacked" for entry in config.evals.values()):
    raise ValueError("config.evals has no attack: students are tested under one")


class _Run(NamedTuple):
  """The config of a training, and its workdir."""

  config: Any
  place: pathlib.Path


class _Share(NamedTuple):
  """A share of so many images."""

  value: float
  num: int


class _Study:
  """The plan of a study: the config of every training, and where it lies."""

  def __init__(self, config, path, moved, inverted, early_epochs, students, sets):
    self.config, self.path, self.early_epochs = config, path, early_epochs
    self.options = {**dict.fromkeys(TARGETED, moved), **dict.fromkeys(INVERTED, inverted)}
    self.students, self.sets = students, sets
    self.source: Source = build.load_train(config)

  def run_seed(self, seed: int) -> dict[str, Any]:
    """All nets of a seed, trained as far as the workdir says, and what they are tested to be."""
    runs = {
      "standard": self._run("standard", seed),
      "robust": self._run("robust", seed, objective=self.config.objective.to_dict()),
    }
    for run in runs.values():
      plan.train(*run)
    made = {
      name: self._make_set(name, seed, runs["robust" if name == "d_robust" else "standard"])
      for name in self.sets
    }
    for name in self.sets:
      runs[name] = self._student(name, name, seed)
      plan.train(*runs[name])
    found: dict[str, Any] = {"sets": made, "tests": {n: self._test(*r) for n, r in runs.items()}}
    if {*TARGETED} <= {*self.sets}:
      found["same_size"] = self._same_size(seed)
    return found

  def _run(self, name: str, seed: int, offset: int = 0, **values: Any) -> _Run:
    """A training; only clean accuracy is measured on the way."""
    clean = {
      "evals": {_CLEAN: {"evaluator": "clean"}}, "select": (_CLEAN, "max"),
      "evaluation": {**self.config.evaluation.to_dict(), "eps_list": ()},
    }  # fmt: skip
    values = {**clean, "objective": _STANDARD, **values}
    return _Run(
      plan.changed(self.config, seed=seed + offset, **values), self.path / "runs" / f"{name}_{seed}"
    )

  def _folder(self, name: str, seed: int) -> pathlib.Path:
    """The workdir of a set."""
    return self.path / "sets" / f"{name}_{seed}"

  def _make_set(self, name: str, seed: int, teacher: _Run) -> dict[str, float]:
    """Has a set made, and says what is known of its images on average."""
    options = {"method": name, "net": str(teacher.place), **self.options[name]}
    folder = self._folder(name, seed)
    jobs.run(plan.changed(teacher.config, job="generate", generate=options), folder)
    result = workdir.read_note(folder / "results" / "generate.json")
    return {key: value for key, value in result.items() if isinstance(value, float)}

  def _student(self, name: str, kind: str, seed: int, **data: Any) -> _Run:
    """A training in the standard way on a set, or with `data` on some of it."""
    values = {
      block: {**self.config[block].to_dict(), **changes}
      for block, changes in self.students.get(kind, {}).items()
    }
    if kind in SETS:
      mean, std = normalization.constants(self.config.data.name)
      model = {"mean": mean, "std": std, **self.config.model.to_dict(), **values.get("model", {})}
      values["model"] = model  # of a folder, nothing is known
      data = {
        "name": str(self._folder(kind, seed)), "train_split": SHARDS,
        "test_name": self.config.data.name, **data,
      }  # fmt: skip
    return self._run(name, seed, plan.STUDENT, data=data, **values)

  def _same_size(self, seed: int) -> dict[str, Any]:
    """Accuracy of three students of as many images as a teacher of a few epochs gets wrong."""
    early = self._run("early", seed, _EARLY, total_epochs=self.early_epochs)
    plan.train(*early)
    files = {name: self.path / "labels" / f"{name}_{seed}.npz" for name in (MISTAKES, *TARGETED)}
    if not all(file.exists() for file in files.values()):
      self._write_labels(files, early, seed)
    given, _ = other_labels.load_labels(files[MISTAKES])
    found: dict[str, Any] = {_NUM_IMAGES: int(np.sum(given != LEFT_OUT))}
    found["early"] = self._accuracy(*early)
    for name, file in files.items():
      run = self._student(f"{name}_same_size", name, seed, labels=str(file))
      plan.train(*run)
      found[name] = self._accuracy(*run)
    return found

  def _write_labels(self, files, early, seed: int) -> None:
    """The early teacher's mistakes, and as many images of each set, drawn at random."""
    says = plan.predict(early.config, early.place, self.source)
    mistakes = other_labels.select_kept(says.labels, labels_of(self.source), "mistakes")
    other_labels.warn_of_missing(mistakes[mistakes != LEFT_OUT], self.source)
    other_labels.save_labels(files[MISTAKES], mistakes, says.class_names)
    count, order = np.sum(mistakes != LEFT_OUT), np.random.PCG64(seed).random_raw(len(mistakes))
    for name in TARGETED:
      labels = np.full(len(mistakes), LEFT_OUT)
      chosen = np.argsort(order, kind="stable")[:count]
      labels[chosen] = labels_of(shards.open_shards(self._folder(name, seed) / SHARDS))[chosen]
      other_labels.save_labels(files[name], labels, says.class_names)

  def _accuracy(self, run, place: pathlib.Path) -> _Share:
    """Of all test images, those that a net is right on."""
    every = {**run.evaluation.to_dict(), "num_examples": 0}
    says = plan.predict(plan.changed(run, evaluation=every), place)
    return _Share(says.accuracy, len(says.true))

  def _test(self, run, place: pathlib.Path) -> dict[str, _Share]:
    """Accuracy on all test images, and under attack by radius; kept in the run's workdir."""
    measured = {block: self.config[block].to_dict() for block in ("evals", "evaluation")}
    tested = plan.changed(run, **measured)
    file = place / "results" / "evaluate.json"
    found = workdir.read_note(file) if file.exists() else {}
    if not _is_of(found, tested):
      found = evaluate.measure(tested, nets.open_model(tested, place)).result
      workdir.write_result(place, "evaluate", found)
    under_attack = {
      f"{point['eps']:g}": _Share(point["robust"], found["num_examples"])
      for point in found["curve"]
      if point["eps"] > 0
    }
    return {_CLEAN: self._accuracy(run, place), **under_attack}

  def draw(self, ours: Mapping[str, Any]) -> None:
    """Draws an image of each class in the sets of the first seed, and the accuracies."""
    results, labels = self.path / "results", labels_of(self.source)
    ids = np.unique(labels, return_index=True)[1][:_PICTURED]
    rows = {"original": ImageRow(*self.source.read(ids))}
    for name in self.sets:
      rows[NAMES[name]] = _images_of(self._folder(name, self.config.seed), ids)
    draw_image_rows(results / "constructed_sets.png", rows, class_names=self.source.class_names)
    is_theirs = self.config.data.name == "cifar10"
    label_plots.draw_shares(
      results / "accuracy.png",
      _named(ours["accuracy"]),
      published=_named(_PUBLISHED) if is_theirs else None,
      chance=1 / self.source.num_classes,
    )


def _images_of(folder: pathlib.Path, ids: np.ndarray) -> ImageRow:
  """What a set has made of the originals of these numbers."""
  with np.load(folder / ORIGINS, allow_pickle=False) as file:
    places = np.argsort(file["index"])[ids]
  return ImageRow(*shards.open_shards(folder / SHARDS).read(places))


def _named(by_measure: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """Accuracies as a picture calls them."""
  return {
    "accuracy" if measure == _CLEAN else f"accuracy under l2 attacks of {measure}": {
      NAMES.get(name, f"all images, {name}"): value for name, value in values.items()
    }
    for measure, values in by_measure.items()
  }


def _is_of(result: Mapping[str, Any], config: Any) -> bool:
  """Whether a result of the job `evaluate` is what this config would measure."""
  setting = attack_setting(config)
  assert setting is not None  # `_check`
  wanted = {*map(float, config.evaluation.eps_list), setting.eps}
  there = {point["eps"] for point in result.get("curve", ())} - {0.0}
  most = config.evaluation.num_examples or math.inf
  return (
    there == wanted - {0.0}
    and result.get("attack") == config_lib.to_data(setting.attack)
    and result.get("num_examples", 0) <= most
  )


def _summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Means over the seeds, with their 95 % intervals."""

  def over_seeds(get: Callable[[Mapping[str, Any]], _Share]) -> Interval:
    shares = [get(each) for each in found]
    return plan.over_seeds([share.value for share in shares], shares[0].num)

  tests = found[0]["tests"]
  ours: dict[str, Any] = {
    "accuracy": {
      measure: {name: over_seeds(lambda each, n=name, m=measure: each["tests"][n][m])
                for name in tests}
      for measure in tests["standard"]
    },
    "sets": [each["sets"] for each in found],
  }  # fmt: skip
  if "same_size" in found[0]:
    sizes = [each["same_size"].pop(_NUM_IMAGES) for each in found]
    ours["same_size"] = {
      **{
        name: over_seeds(lambda each, n=name: each["same_size"][n])
        for name in found[0]["same_size"]
      },
      _NUM_IMAGES: sizes,
    }
  return ours


def _answers(ours: Mapping[str, Any], num_classes: int, radius: str) -> dict[str, str]:
  """The answer to each claim that the sets of the study speak of; of robustness, at a radius."""
  clean, chance = ours["accuracy"][_CLEAN], Interval(*[1 / num_classes] * 3)
  attacked, answers = ours["accuracy"][radius], {}
  if {*INVERTED} <= clean.keys():
    d_r, d_nr = attacked["d_robust"], attacked["d_non_robust"]
    answers["D_R gives robustness"] = plan.compare(d_r, attacked["standard"], d_nr)
    answers["D_NR gives accuracy and less robustness"] = plan.all_of(
      (plan.compare(clean["d_non_robust"], chance), plan.compare(d_r, d_nr))
    )
  for name in TARGETED:
    if name in clean:
      answers[f"{NAMES[name]} generalises to true labels"] = plan.compare(clean[name], chance)
  if "same_size" in ours:
    answers["mistakes need no perturbation"] = plan.compare(ours["same_size"][MISTAKES], chance)
  return answers


def _table(ours: Mapping[str, Any]) -> str:
  """Accuracies, a row for what a net was trained on."""
  rows = [
    {"trained on": NAMES.get(name, f"all images, {name}"),
     **{measure: each[name].value for measure, each in ours["accuracy"].items()}}
    for name in ours["accuracy"][_CLEAN]
  ]  # fmt: skip
  same = {k: v for k, v in ours.get("same_size", {}).items() if k != _NUM_IMAGES}
  lines = [tables.markdown_table(rows)]
  if same:
    size = ours["same_size"][_NUM_IMAGES][0]
    lines.append(tables.markdown_table(
      [{f"trained on {size} images": NAMES.get(k, k), _CLEAN: v.value} for k, v in same.items()]
    ))  # fmt: skip
  return "\n\n".join(lines)
