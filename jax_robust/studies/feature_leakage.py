"""Do constructed sets hold robust features after all? Ten linear ones answer: theirs is exact.

The weights of an adversarially trained linear classifier are features whose robustness in l2 is
known without any attack. A linear classifier that sees these features of D_rand or D_det only, and
is right on true images more often than by chance, has learned from robust features: they leak.
"""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.optimize
import scipy.special

from jax_robust import config as config_lib
from jax_robust import jobs
from jax_robust.data import named, shards
from jax_robust.data.sources import Source
from jax_robust.errors import check_eps, check_name
from jax_robust.evaluate import label_plots
from jax_robust.evaluate.intervals import Interval
from jax_robust.jobs.generate import SHARDS
from jax_robust.runs import build, nets, workdir
from jax_robust.runs.blocks import block
from jax_robust.studies import Finding, plan

SETS = ("d_rand", "d_det")
_PUBLISHED = {"d_rand": 0.235, "d_det": 0.0681, "robust in l2 .25 at least": 0.8}
_MAKERS = ("constructed_sets",)
_RIGHT = "true test images that are classified correctly"
_OF_DATA = ("name", "train_split", "test_split", "image_size")
_RIDGE = 1e-6  # of the weights, so that there is one optimum


class LinearNet(NamedTuple):
  """A linear classifier `x -> x w + b` of flat images in [0, 1].

  Attributes:
    weights: w, float64 `[d, k]`.
    bias: b, float64 `[k]`.
  """

  weights: np.ndarray
  bias: np.ndarray

  def features(self, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """`x w + b` of all images, float64 `[n, k]`, and their labels `[n]`."""
    found = [
      (images.reshape(len(images), -1) / 255 @ self.weights + self.bias, labels)
      for images, labels in source.batches()
    ]
    return tuple(map(np.concatenate, zip(*found, strict=True)))  # pyrefly: ignore


def feature_leakage(
  config: Any, path: pathlib.Path, *, made_by: str, radius: float = 0.25
) -> Finding:
  """Trains a robust linear classifier, and on its outputs alone one for each set, tested on truth.

  That D_rand leaks is held where accuracy on true test images is above chance, that D_det does not
  where chance is above it, by 95 % intervals (`studies.plan.compare`).

  Args:
    config: of the linear classifier: `model` is an `mlp` without hidden layers, `objective` is
      `adversarial`; of the data set of the study that made the sets.
    path: the workdir; the classifier lies in `runs/`, the picture in `results/`.
    made_by: workdir of a finished study `constructed_sets`, whose D_rand and D_det these are, of as
      many seeds as it has; 'made' runs the smoke version of that study first.
    radius: in l2, in which the robustness of the features is told.

  Returns:
    Accuracies on the true test images of the classifier, and of those on ten features of the
    originals, of D_rand and of D_det; the share of test images whose prediction by the features is
    certain within the radius; and the robust usefulness of each feature.

  Raises:
    ValueError: a net that is not linear, another data set, or no such study.

  Reference: Goh, "Robust Feature Leakage", Distill 2019, in "A Discussion of 'Adversarial Examples
  Are Not Bugs, They Are Features'". How its linear classifier was trained is not told.
  """
  check_eps(radius, "l2", one=True)
  if made_by == named.MADE:
    made_by = str(path / "made_by")
    jobs.run(config_lib.load("study_constructed_sets:smoke"), pathlib.Path(made_by))
  theirs: Any = config_lib.from_data(workdir.read_config(pathlib.Path(made_by)))
  check_name(f"the study of made_by={made_by!r}", block(theirs, "study").get("name", ""), _MAKERS)
  there, here = ([each.data[key] for key in _OF_DATA] for each in (theirs, config))
  if there != here:
    raise ValueError(f"made_by={made_by!r} is of the data {there}, this config is of {here}")
  train, found = build.load_train(config), []
  for seed in range(theirs.seed, theirs.seed + theirs.study.num_seeds):
    run, place = plan.changed(config, seed=seed), path / "runs" / f"linear_{seed}"
    plan.train(run, place)
    subject = nets.open_model(run, place)
    linear = linear_net(subject.net, subject.params, train.image_shape)
    found.append(_measure(linear, train, subject.source, pathlib.Path(made_by), seed, radius))
  num = found[0].pop("num_tested")
  for each in found[1:]:
    del each["num_tested"]
  ours: dict[str, Any] = {
    name: plan.over_seeds([each[name] for each in found], num)
    for name in found[0]
    if name != "usefulness"
  }
  ours["robust usefulness"] = [each["usefulness"] for each in found]
  chance = Interval(*[1 / train.num_classes] * 3)
  ours["answers"] = answers = {
    "D_rand leaks robust features": plan.compare(ours["d_rand"], chance),
    "D_det does not": plan.compare(chance, ours["d_det"]),
  }
  if jax.process_index() == 0:
    shown = {name: ours[name] for name in ("linear classifier", "originals", *SETS)}
    label_plots.draw_shares(
      path / "results" / "feature_leakage.png", {_RIGHT: shown},
      published={_RIGHT: _PUBLISHED} if config.data.name == "cifar10" else None,
      chance=chance.value,
    )  # fmt: skip
  return Finding(
    claim="Robust linear features tell something of the true classes in D_rand, and nothing in "
    "D_det.",
    answer=plan.all_of(answers.values()),
    ours=ours,
    published=_PUBLISHED,
    num_seeds=theirs.study.num_seeds,
  )


def linear_net(net: Any, params: Any, image_shape: tuple[int, ...]) -> LinearNet:
  """The weights of a linear net, its normalisation taken into them.

  Raises:
    ValueError: it is no `mlp` without hidden layers.
  """
  if {*params} != {"logits"} or getattr(net, "hidden", None) != ():
    raise ValueError(
      f"the net is a {type(net).__name__} with the layers {sorted(params)}: expected a linear one, "
      "model.name=mlp with model.hidden=()"
    )
  shift, scale = (
    np.broadcast_to(np.asarray(each, np.float64), image_shape).reshape(-1, 1)
    for each in (net.mean, net.std)
  )
  kernel, bias = (np.asarray(params["logits"][name], np.float64) for name in ("kernel", "bias"))
  weights = kernel / scale
  return LinearNet(weights, bias - (shift * weights).sum(0))


def certain_distances(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """How far in l2 each image is from the nearest boundary of its prediction, `[n]`; exact.

  The box is left out, which can only make the distance larger.

  Args:
    logits: of a linear classifier, `[n, k]`.
    weights: its weights, `[d, k]`.

  >>> certain_distances(np.array([[3.0, 0.0]]), np.array([[1.0, -1.0]])).tolist()
  [1.5]
  """
  rows, first = np.arange(len(logits)), logits.argmax(1)
  lead = logits[rows, first][:, None] - logits
  gram = weights.T @ weights
  squares = np.diag(gram)[first][:, None] + np.diag(gram)[None] - 2 * gram[first]
  lead[rows, first] = math.inf
  squares[rows, first] = 1.0
  return (lead / np.sqrt(np.maximum(squares, 1e-300))).min(1)


def robust_usefulness(
  features: np.ndarray, labels: np.ndarray, weights: np.ndarray, radius: float
) -> np.ndarray:
  """How well feature i tells class i from the others within a radius: E[y f] - radius ||w||, `[k]`.

  f is the feature over its standard deviation, of mean 0; y is 1 for images of class i, -1 for
  others, both weighted to the same sum; w is the gradient of f. A feature is robustly useful where
  this is above 0.

  Args:
    features: `[n, k]`.
    labels: `[n]`.
    weights: of the features, `[d, k]`.
    radius: in l2.
  """
  deviation = features.std(0)
  standard = (features - features.mean(0)) / deviation
  own = labels[:, None] == np.arange(features.shape[1])
  means = [np.where(where, standard, 0).sum(0) / where.sum(0) for where in (own, ~own)]
  return (means[0] - means[1]) / 2 - radius * np.linalg.norm(weights, axis=0) / deviation


def fit_softmax(features: np.ndarray, labels: np.ndarray, num_classes: int) -> LinearNet:
  """The linear classifier of least cross entropy, by L-BFGS.

  Args:
    features: `[n, d]`, of mean about 0 and deviation about 1.
    labels: `[n]`.
    num_classes: k.
  """
  rows, dims = np.arange(len(features)), features.shape[1]

  def loss(flat):
    w, b = flat[:-num_classes].reshape(dims, num_classes), flat[-num_classes:]
    logits = features @ w + b
    log_sum = scipy.special.logsumexp(logits, axis=1, keepdims=True)
    error = np.exp(logits - log_sum)
    value = np.mean(log_sum[:, 0] - logits[rows, labels]) + 0.5 * _RIDGE * np.sum(w**2)
    error[rows, labels] -= 1
    error /= len(features)
    return value, np.concatenate([(features.T @ error + _RIDGE * w).ravel(), error.sum(0)])

  start = np.zeros((dims + 1) * num_classes)
  flat = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
  return LinearNet(flat.x[:-num_classes].reshape(dims, num_classes), flat.x[-num_classes:])


def _measure(linear: LinearNet, train, test, made_by, seed: int, radius: float) -> dict[str, Any]:
  """What is measured for one seed."""
  originals, labels = linear.features(train)
  features, true = linear.features(test)
  shift, scale = originals.mean(0), originals.std(0)

  def accuracy(features_of, labels_of):
    fitted = fit_softmax((features_of - shift) / scale, labels_of, train.num_classes)
    logits = (features - shift) / scale @ fitted.weights + fitted.bias
    return float(np.mean(logits.argmax(1) == true))

  found: dict[str, Any] = {
    "num_tested": len(true),
    "linear classifier": float(np.mean(features.argmax(1) == true)),
    "prediction certain in the radius": float(
      np.mean(certain_distances(features, linear.weights) >= radius)
    ),
    "usefulness": robust_usefulness(originals, labels, linear.weights, radius).tolist(),
    "originals": accuracy(originals, labels),
  }
  for name in SETS:
    made = shards.open_shards(made_by / "sets" / f"{name}_{seed}" / SHARDS)
    found[name] = accuracy(*linear.features(made))
  return found
