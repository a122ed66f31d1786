"""Images that a net is confidently wrong about, with their true labels, as a training set.

A first net learns a small part of the images of two classes. Of the rest, those are taken that it
is most confidently wrong about. A new net that sees these alone, truly labelled, does worse than
chance on the test images; beside the first part they are worth something.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jax_robust.data import draws
from jax_robust.data import labels as other_labels
from jax_robust.data.labels import LEFT_OUT
from jax_robust.data.sources import Source, labels_of
from jax_robust.errors import check_count, check_probability, warn
from jax_robust.evaluate import label_plots
from jax_robust.evaluate.intervals import Interval
from jax_robust.runs import build
from jax_robust.studies import Finding, plan

SETS = {
  "first": "first part",
  "mistakes": "confident mistakes alone",
  "inverted": "the same, labels inverted",
  "random": "as many at random",
  "uncertain": "as many right, least confident",
  "first_and_mistakes": "first part and mistakes",
  "first_and_random": "first part and random ones",
  "first_and_uncertain": "first part and uncertain ones",
}
"""What nets are trained on, and what pictures call it."""

_PUBLISHED = {"first": 0.75, "mistakes": 0.37, "inverted": 0.63}


def confident_mistakes(
  config: Any, path: pathlib.Path, *, share: float = 0.15, num_seeds: int = 3
) -> Finding:
  """Trains for each seed a first net, new nets on what it says of the other images, and controls.

  Of the images that the first net has not seen, 'mistakes' are those with the least probability of
  the true class, among those that it gets wrong; 'random' are as many of all; 'uncertain' as many
  of those that it gets right, again with the least probability of the true class. All have their
  true labels, but in 'inverted'. Held is the claim where the 95 % interval of 'mistakes' lies below
  one half and below the intervals of 'random' and 'uncertain'.

  Args:
    config: of all nets, which differ in images and seed; `data.classes` names two classes.
    path: the workdir: trainings lie in `runs/`, labels in `labels/`, the picture in `results/`.
    share: of the images for the first net, and of the rest for the others, in (0, 1).
    num_seeds: of initial weights and of the random images; `config.seed` is the first. The images
      of the first net are the same for all.

  Returns:
    Accuracies on test images, and how many mistakes there were.

  Raises:
    ValueError: another number of classes than two, other labels than the true ones, a share of no
      images, a first net without mistakes.

  Reference: Jordan, program "Inverse-Subset", on cats and dogs of CIFAR-10, one seed.
  """
  check_count(num_seeds=num_seeds)
  check_probability(share=share)
  plan.check_true_labels(config)
  source = build.load_train(config)
  if source.num_classes != 2:
    raise ValueError(
      f"{source.name} has {source.num_classes} classes: this study is about two, which "
      "config.data.classes names, such as ('cat', 'dog')"
    )
  num_first = round(share * source.num_examples)
  if not 0 < num_first < source.num_examples:
    raise ValueError(
      f"share={share}: of {source.num_examples} images that is {num_first}; expected some and not "
      "all of them"
    )
  found = [
    _run_seed(config, path, seed, source, num_first, share)
    for seed in range(config.seed, config.seed + num_seeds)
  ]
  num_tested = len(found[0]["tests"]["first"].true)
  accuracy = {
    name: plan.over_seeds([each["tests"][name].accuracy for each in found], num_tested)
    for name in SETS
  }
  if jax.process_index() == 0:
    _draw(path, accuracy)
  half = Interval(0.5, 0.5, 0.5)
  controls = (half, accuracy["random"], accuracy["uncertain"])
  return Finding(
    claim="A net trained only on images that another net is confidently wrong about, with their "
    "true labels, is wrong on most images.",
    answer=plan.all_of(plan.compare(control, accuracy["mistakes"]) for control in controls),
    ours={
      "accuracy": accuracy,
      "images of the first net": num_first,
      "mistakes": [each["num_mistakes"] for each in found],
      "chosen": [each["num_chosen"] for each in found],
    },
    published=_PUBLISHED,
    num_seeds=num_seeds,
  )


def choose(
  true: np.ndarray, probabilities: np.ndarray, first: np.ndarray, *, share: float, seed: int
) -> dict[str, np.ndarray]:
  """The images of each set but the inverted, as rows of the whole set.

  Args:
    true: labels `[n]`.
    probabilities: what the first net says, `[n, 2]`.
    first: rows that it was trained on.
    share: of the others that is taken.
    seed: of the random ones.

  Raises:
    ValueError: it makes no mistake on the others.
  """
  rest = np.setdiff1d(np.arange(len(true)), first)
  of_true = probabilities[rest, true[rest]]
  is_right = probabilities[rest].argmax(1) == true[rest]
  ascending = np.argsort(of_true, kind="stable")
  wrong, right = (rest[ascending[is_right[ascending] == each]] for each in (False, True))
  count = min(max(round(share * len(rest)), 1), len(wrong))
  if not count:
    raise ValueError(
      f"the first net makes no mistakes on the {len(rest)} other images: train it on fewer, by a "
      "smaller share, or for a shorter time"
    )
  if count < round(share * len(rest)):
    warn(f"the first net makes {count} mistakes, fewer than {share:.0%} of the {len(rest)} others")
  # Raw bits and a sort: NumPy promises these for all its versions.
  drawn = np.argsort(np.random.PCG64(seed).random_raw(len(rest)), kind="stable")
  alone = {"mistakes": wrong[:count], "random": rest[drawn[:count]], "uncertain": right[:count]}
  added = {f"first_and_{name}": np.union1d(first, rows) for name, rows in alone.items()}
  return {"first": first, **alone, **added}


def _run_seed(config, path, seed, source: Source, num_first, share) -> dict[str, Any]:
  """All nets of a seed, trained as far as the workdir says."""
  true = labels_of(source)
  first = np.arange(num_first)
  if build.draw_rule(config) == draws.BY_CLASS:
    first = draws.order(true)[:num_first]

  def train(name, labels, rows, seed_of_net):
    file = path / "labels" / f"{name}_{seed}.npz"
    if not file.exists():
      _write(file, labels, rows, source)
    net = plan.changed(config, data={"labels": str(file)}, seed=seed_of_net)
    run = path / "runs" / f"{name}_{seed}"
    return plan.train_and_test(net, run), net, run

  tested, net, run = train("first", true, first, seed)
  says = plan.predict(net, run, source)
  chosen = choose(true, says.probabilities, first, share=share, seed=seed)
  tests = {"first": tested}
  for name in SETS:
    if name != "first":
      inverted = name == "inverted"
      rows, labels = chosen["mistakes" if inverted else name], 1 - true if inverted else true
      tests[name], *_ = train(name, labels, rows, seed + plan.STUDENT)
  others = np.setdiff1d(np.arange(len(true)), first)
  num_mistakes = int(np.sum(says.labels[others] != true[others]))
  return {"tests": tests, "num_mistakes": num_mistakes, "num_chosen": len(chosen["mistakes"])}


def _write(file: pathlib.Path, labels: np.ndarray, rows: np.ndarray, source: Source) -> None:
  """Writes the labels of some images; all others are left out."""
  given = np.full(len(labels), LEFT_OUT, np.int32)
  given[rows] = labels[rows]
  other_labels.save_labels(file, given, source.class_names)


def _draw(path: pathlib.Path, accuracy: Mapping[str, Interval]) -> None:
  """All accuracies, with the published ones and chance."""
  label_plots.draw_shares(
    path / "results" / "confident_mistakes.png",
    {"accuracy": {SETS[name]: share for name, share in accuracy.items()}},
    published={"accuracy": {SETS[name]: share for name, share in _PUBLISHED.items()}},
    chance=0.5,
  )
