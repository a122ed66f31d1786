"""Points in a square: a net learns the rule of another from its adversarial examples alone.

A first net fits 32 points with random labels. Those of its adversarial examples that it gets wrong
are the training set of a second net, labelled as the first one sees them: every label is wrong.
How many of the original points the second net gets right says what it learned of the first.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_robust import attacks, models, objectives
from jax_robust.errors import check_count, check_positive
from jax_robust.evaluate import plane_plots
from jax_robust.evaluate.intervals import Interval, mean_interval
from jax_robust.studies import Finding
from jax_robust.train import optim, parallel
from jax_robust.train.state import create_state, make_apply_fn
from jax_robust.train.step import make_update

_LABELS = "01000101010000011100110101100001"
"""Of the published figure, in the order in which the points are drawn."""

_MIN_DISTANCE = 0.216  # in l1, between any two points of the figure
_PUBLISHED = {"student_correct": 23, "num_adversarial": 15}
_GRID = 101


def figure_points() -> tuple[np.ndarray, np.ndarray]:
  """The 32 points of the published figure, float64 `[32, 2]` in [0, 1], and their labels `[32]`.

  Uniform draws are accepted one after another unless they lie close to an earlier point.

  >>> points, labels = figure_points()
  >>> points[1].round(4).tolist(), int(labels.sum())
  ([0.6028, 0.5449], 13)

  Reference: Wallace, "Learning from Incorrectly Labeled Data", Distill 2019, figure 2; points and
  labels were recovered from it.
  """
  draw = np.random.RandomState(0)  # the figure's generator, whose stream NumPy promises to keep
  points = draw.uniform(size=(1, 2))
  while len(points) < len(_LABELS):
    new = draw.uniform(size=2)
    if np.abs(points - new).sum(1).min() > _MIN_DISTANCE:
      points = np.concatenate([points, new[None]])
  return points, np.array([int(label) for label in _LABELS])


def two_dimensional(
  config: Any,
  path: pathlib.Path,
  *,
  num_seeds: int = 40,
  radii: Sequence[float] = (0.06, 0.12),
  num_steps: int = 1000,
  learning_rate: float = 1e-3,
  hidden: Sequence[int] = (100, 100, 100, 100),
) -> Finding:
  """Trains first nets, second nets and controls, all seeds at once, and draws a seed.

  The control has the second net's points with their labels permuted.

  Args:
    config: its seed is the first; the others follow.
    path: the workdir, for the pictures `results/two_dimensional_RADIUS.png`.
    num_seeds: of initial weights.
    radii: of the FGSM step, in l∞.
    num_steps: updates by Adam on all points.
    learning_rate: of Adam.
    hidden: sizes of the nets' layers.

  Raises:
    ValueError: no seed, step or radius; a radius or a learning rate that is not positive.

  Reference: Wallace 2019; the net is that of Wong and Kolter's two-dimensional example, from whose
  program the points descend.
  """
  check_count(num_seeds=num_seeds, num_steps=num_steps)
  check_positive(learning_rate=learning_rate)
  if not radii or not all(0 < radius < 1 for radius in radii):
    raise ValueError(f"radii={tuple(radii)}: expected one or more radii between 0 and 1")
  points, labels = figure_points()
  run = functools.partial(
    _run_seed, points=jnp.asarray(points, jnp.float32), labels=jnp.asarray(labels),
    radii=jnp.asarray(radii), num_steps=num_steps, learning_rate=learning_rate,
    hidden=tuple(hidden),
  )  # fmt: skip
  mesh = parallel.data_mesh(num_seeds)  # devices share the seeds
  seeds = parallel.shard_batch({"seed": config.seed + np.arange(num_seeds)}, mesh)["seed"]
  of_all = jax.device_get(jax.jit(jax.vmap(run))(seeds))
  ours = {}
  for i, radius in enumerate(radii):
    found = {name: values[:, i] for name, values in of_all.items()}
    ours[f"{radius:g}"] = _summary(found)
    place = path / "results" / f"two_dimensional_{radius:g}.png"
    if jax.process_index() == 0:
      shown = {name: values[0] for name, values in found.items()}
      plane_plots.draw_learning_from_adversarial_points(place, points, labels, radius, shown)
  beats = [each["student_correct"].low > each["control_correct"].high for each in ours.values()]
  return Finding(
    claim="A net trained only on another net's adversarial examples, all with wrong labels, "
    "classifies the original points better than chance.",
    answer="held here" if all(beats) else "not held here",
    ours=ours,
    published={"0.06 in the figure, 0.12 in the text": _PUBLISHED},
    num_seeds=num_seeds,
  )


def _run_seed(seed, *, points, labels, radii, num_steps, learning_rate, hidden) -> dict[str, Array]:
  """First net, and by radius adversarial points, second net and control of one seed; traced."""
  net = models.create("mlp", num_classes=2, hidden=hidden, initial_weights="torch")
  train = functools.partial(_train, net, num_steps=num_steps, learning_rate=learning_rate)
  keys = jax.random.split(jax.random.key(seed), 3)
  images = points[:, None, None]  # as images of one pixel with two channels
  first = train(keys[0], images, jax.nn.one_hot(labels, 2))
  of_radius = functools.partial(_run_radius, net, train, first, images, labels, keys[1:])
  return jax.vmap(of_radius)(radii)


def _run_radius(net, train, first, images, labels, keys, radius) -> dict[str, Array]:
  """What becomes of a first net's adversarial points of one radius; traced."""
  predict = functools.partial(_predict, net, first)

  # Attacks stay in [0, 1] and the figure's do not: the square is shrunk by half for the attack.
  adversarial = attacks.fgsm(
    lambda inner: net.apply({"params": first}, 2 * inner - 0.5), images / 2 + 0.25, labels, keys[0],
    ball=attacks.linf_ball(radius / 2),
  )  # fmt: skip
  adversarial = 2 * adversarial - 0.5
  given = predict(adversarial)
  kept = (predict(images) == labels) & (given != labels)

  def second(given):  # a row of zeros as its target adds nothing to the loss
    params = train(keys[1], adversarial, jax.nn.one_hot(given, 2) * kept[:, None])
    return params, _predict(net, params, images) == labels

  student, student_right = second(given)
  control, control_right = second(_permuted(keys[0], given, kept))
  grid = _grid()
  first_says, student_says, control_says = (
    _predict(net, params, grid) for params in (first, student, control)
  )
  return {
    "first_correct": (predict(images) == labels).sum(),
    "num_adversarial": kept.sum(),
    "student_fits": ((_predict(net, student, adversarial) == given) & kept).sum(),
    "student_correct": student_right.sum(),
    "as_many_as_published": student_right.sum() >= _PUBLISHED["student_correct"],
    "control_correct": control_right.sum(),
    "agreement": (first_says == student_says).mean(),
    "control_agreement": (first_says == control_says).mean(),
    "adversarial": adversarial[:, 0, 0],
    "given": given,
    "kept": kept,
    "first_says": first_says.reshape(_GRID, _GRID),
    "student_says": student_says.reshape(_GRID, _GRID),
  }


def _train(net, key, images, targets, *, num_steps, learning_rate):
  """Parameters after so many updates on all points."""
  schedule = optim.make_schedule(name="constant", peak=learning_rate, total_steps=num_steps)
  optimizer = optim.make_optimizer(schedule, name="adam", weight_decay=0.0)
  update = make_update(
    objectives.standard, make_apply_fn(net), optimizer, prepare=lambda raw, key: raw,
    steps_per_epoch=1,
  )  # fmt: skip
  batch = {"image": images, "target": targets, "row": jnp.arange(len(images))}
  state = create_state(net, optimizer, [images[:1]], seed=jax.random.bits(key))
  state, _ = jax.lax.scan(lambda state, _: update(state, batch), state, length=num_steps)
  return state.params


def _predict(net, params, images):
  return net.apply({"params": params}, images).argmax(-1)


def _permuted(key, labels, kept):
  """The labels of the kept points in a random order, at the same points."""
  random = jax.random.uniform(key, labels.shape)
  order = jnp.argsort(jnp.where(kept, random, 2.0))
  return labels.at[jnp.argsort(~kept, stable=True)].set(labels[order])


def _grid():
  """The places of the square at which nets are compared, as images."""
  line = jnp.linspace(0.0, 1.0, _GRID)
  return jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 1, 1, 2)


def _summary(found) -> dict[str, Interval]:
  """Mean over the seeds, with its 95 % interval, of each number."""
  return {name: mean_interval(values) for name, values in found.items() if np.ndim(values) == 1}
