"""Adversarial examples that are bugs of one net, and not features: from them nothing is learned.

Two sets are made from the same images with the same radius and steps, both labelled with the class
after the true one: `d_det`, by a targeted attack on a net, and `d_bugs`, by the same attack while
an ensemble of other nets shall see the true class. Where the perturbations of `d_bugs` mean nothing
to yet another net, a student of them can only learn what is seen: the class after the true one.
"""

import pathlib
from typing import Any

import jax
import numpy as np

from jax_robust import jobs
from jax_robust.data import shards
from jax_robust.errors import check_count
from jax_robust.evaluate import label_plots
from jax_robust.evaluate.intervals import Interval
from jax_robust.generate.constructed import DISENTANGLED
from jax_robust.jobs.generate import SHARDS
from jax_robust.models import normalization
from jax_robust.runs import build, workdir
from jax_robust.studies import Finding, plan

SETS = {"d_det": "PGD", DISENTANGLED: "disentangled PGD"}
_OTHERS, _JUDGE = 3000, 4000  # added to the seed of the net for those of the other nets
_PUBLISHED = {
  "attack success": {"PGD": 0.999, "disentangled PGD": 0.993},
  "targeted transfer": {"PGD": 0.825, "disentangled PGD": 0.017},
  "student on (X, Y)": {"PGD": 0.332, "disentangled PGD": 0.028},
  "student on (X, Y + 1)": {"PGD": 0.273, "disentangled PGD": 0.708},
}


def just_bugs(
  config: Any, path: pathlib.Path, *, moved: dict, num_others: int = 10, num_seeds: int = 1
) -> Finding:
  """Trains nets, makes both sets, and trains a student on each.

  By 95 % intervals (`studies.plan.compare`): that bugs do not transfer is held where the targeted
  transfer of `d_det` lies above that of `d_bugs`; that nothing of the true labels is learned from
  them, where chance lies above their student's accuracy, and that of `d_det` does too.

  Args:
    config: of all nets and students.
    path: the workdir: trainings lie in `runs/`, sets in `sets/`, the picture in `results/`.
    moved: `eps`, `num_steps`, `step_size` and so on of both sets, as the job `generate` takes them.
    num_others: nets of the ensemble.
    num_seeds: of all that is drawn; `config.seed` is the first.

  Returns:
    Of each set the share of images that the net takes for the target, that a net which had no part
    in it does (targeted transfer), and the student's accuracy on true test images, with the true
    labels and with the class after them.

  Raises:
    ValueError: held-out images, or an option that the job `generate` would refuse.

  Reference: Nakkiran, 2019, "Adversarial Examples are Just Bugs, Too", Distill; the l2 rows, of
  CIFAR-10, ResNet-18, radius 2.5.
  """
  check_count(num_others=num_others, num_seeds=num_seeds)
  if config.data.num_heldout:
    raise ValueError(f"data.num_heldout={config.data.num_heldout}: expected 0, all are moved")
  seeds = range(config.seed, config.seed + num_seeds)
  found = [_run_seed(config, path, seed, moved, num_others) for seed in seeds]
  ours: dict[str, Any] = {
    measure: {
      name: plan.over_seeds([each[measure][name] for each in found], num_images)
      for name in SETS.values()
    }
    for measure, num_images in _num_images(config).items()
  }
  chance = Interval(*[1 / build.load_train(config).num_classes] * 3)
  transfer, learned = ours["targeted transfer"], ours["student on (X, Y)"]
  plain, bugs = SETS.values()
  ours["answers"] = answers = {
    "bugs do not transfer": plan.compare(transfer[plain], transfer[bugs]),
    "nothing of the true labels is learned from bugs": plan.all_of(
      (plan.compare(chance, learned[bugs]), plan.compare(learned[plain], learned[bugs]))
    ),
  }
  if jax.process_index() == 0:
    panels = {name: ours[name] for name in _PUBLISHED}
    label_plots.draw_shares(path / "results" / "just_bugs.png", panels, chance=chance.value)
  return Finding(
    claim="Adversarial examples can be made that mislead one net and mean nothing to others, and "
    "from these nothing is learned of the true classes.",
    answer=plan.all_of(answers.values()),
    ours=ours,
    published=_PUBLISHED,
    num_seeds=num_seeds,
  )


def _num_images(config) -> dict[str, int]:
  """Of how many images each measure is a share."""
  made = build.load_train(config)
  tested = build.load_test(config, None).num_examples
  num_tested = min(config.evaluation.num_examples or tested, tested)
  return {name: num_tested if "student" in name else made.num_examples for name in _PUBLISHED}


def _run_seed(config, path: pathlib.Path, seed: int, moved, num_others) -> dict[str, Any]:
  """What is measured of both sets for one seed, trained and made as far as the workdir says."""
  offsets = {"net": 0, "judge": _JUDGE, **{f"other{i}": _OTHERS + i for i in range(num_others)}}
  runs = {}
  for name, offset in offsets.items():
    runs[name] = plan.changed(config, seed=seed + offset), path / "runs" / f"{name}_{seed}"
    plan.train(*runs[name])
  found: dict[str, dict[str, float]] = {name: {} for name in _PUBLISHED}
  for kind, name in SETS.items():
    folder = path / "sets" / f"{kind}_{seed}"
    options = {"method": kind, "net": str(runs["net"][1]), **moved}
    if kind == DISENTANGLED:
      options["others"] = tuple(str(runs[f"other{i}"][1]) for i in range(num_others))
    jobs.run(plan.changed(runs["net"][0], job="generate", generate=options), folder)
    made = shards.open_shards(folder / SHARDS)
    result = workdir.read_note(folder / "results" / "generate.json")
    found["attack success"][name] = result["reached"]
    found["targeted transfer"][name] = plan.predict(*runs["judge"], source=made).accuracy
    says = _student(config, path, kind, seed, folder)
    found["student on (X, Y)"][name] = says.accuracy
    after = (says.true + 1) % made.num_classes
    found["student on (X, Y + 1)"][name] = float(np.mean(says.labels == after))
  return found


def _student(config, path, kind: str, seed: int, folder: pathlib.Path) -> plan.Answers:
  """What a student of a set says of the true test images."""
  mean, std = normalization.constants(config.data.name)
  student = plan.changed(
    config, seed=seed + plan.STUDENT, model={"mean": mean, "std": std, **config.model.to_dict()},
    data={"name": str(folder), "train_split": SHARDS, "test_name": config.data.name},
  )  # fmt: skip
  place = path / "runs" / f"{kind}_{seed}"
  plan.train(student, place)
  return plan.predict(student, place)
