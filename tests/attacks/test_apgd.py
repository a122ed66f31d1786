"""Auto-PGD: against a plain loop over one image, and what is true of it alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import mostly_slow

from jax_robust import losses
from jax_robust.attacks import l1_ball, l2_ball, linf_ball, stepwise
from jax_robust.attacks.apgd import apgd, apgd_targeted
from jax_robust.attacks.apgd_search import apgd_search, checkpoint_periods
from jax_robust.attacks.classes import likeliest_wrong, misclassified
from jax_robust.types import as_keys

BALLS = {"linf": linf_ball, "l2": l2_ball, "l1": l1_ball}
RADII = {"linf": 0.1, "l2": 0.3, "l1": 0.8}
NUM_ROWS, NUM_PIXELS, NUM_CLASSES = 8, 12, 5

every_norm = pytest.mark.parametrize("norm", BALLS)


@jax.jit
def logits_fn(x):
  """A dense net of two layers on 12 pixels."""
  draw = np.random.default_rng(3)
  w1 = jnp.asarray(draw.normal(size=(NUM_PIXELS, 16)), x.dtype) * 0.7
  w2 = jnp.asarray(draw.normal(size=(16, NUM_CLASSES)), x.dtype)
  return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ w1 * 3) @ w2


@functools.partial(jax.jit, static_argnames="dtype")
def make_images(dtype=jnp.float32):
  """Images with the labels the net gives them, two of their pixels on the faces of the box."""
  x = jax.random.uniform(jax.random.key(0), (NUM_ROWS, NUM_PIXELS), dtype)
  x = x.at[:, 0].set(0.0).at[:, 1].set(1.0)
  return x, jnp.argmax(logits_fn(x), axis=-1)


@functools.partial(jax.jit, static_argnames="dtype")
def make_problem(dtype=jnp.float32):
  x, labels = make_images(dtype)
  return stepwise.Problem(x, labels, labels, as_keys(jax.random.key(7), NUM_ROWS))


def over_labels(loss_fn):
  return lambda outputs, labels, goals: loss_fn(outputs, labels)


def with_keys(x, keys):
  return logits_fn(x)


@functools.partial(jax.jit, static_argnames=("norm", "options"))
def run(problem, eps, norm, options=()):
  """The last state of a run with cross entropy."""
  search = apgd_search(over_labels(losses.cross_entropy), **dict(options))
  return stepwise.run(search, with_keys, problem, ball=BALLS[norm](eps))


# A plain loop over one image, written after the description of the reference.


def project(z, x, norm, eps):
  if norm == "linf":
    return np.clip(np.clip(z, x - eps, x + eps), 0, 1)
  if norm == "l2":
    delta = z - x
    size = np.linalg.norm(delta) + 1e-12
    return np.clip(x + delta / size * min(eps, size), 0, 1)
  delta, low, high = z - x, 0.0, np.abs(z - x).max()
  room = np.where(delta > 0, 1 - x, x)
  shrunk = lambda a: np.minimum(np.maximum(np.abs(delta) - a, 0), room)  # noqa: E731
  if shrunk(0).sum() <= eps:
    return np.clip(z, 0, 1)
  for _ in range(100):
    middle = (low + high) / 2
    low, high = (low, middle) if shrunk(middle).sum() <= eps else (middle, high)
  return x + np.sign(delta) * shrunk(high)


def direction(gradient, norm, sparsity):
  if norm == "linf":
    return np.sign(gradient)
  if norm == "l2":
    return gradient / np.linalg.norm(gradient)
  rank = int(np.clip((1 - sparsity) * NUM_PIXELS, 0, NUM_PIXELS - 1))
  kept = np.abs(gradient) >= np.sort(np.abs(gradient))[rank]
  return np.sign(gradient * kept) / np.abs(np.sign(gradient * kept)).sum()


def plain_loop(ask, x, x_start, norm, eps, num_steps, *, is_given=True, rho=0.75):
  """`ask(z) -> (loss, gradient, wrong)`; returns the best loss and point and the last fooling."""
  point = previous = project(x_start, x, norm, eps)
  loss, gradient, wrong = ask(point)
  best, fooling = (loss, point, gradient), point if wrong else None
  history = np.zeros(num_steps)
  size = eps if norm == "l1" else 2 * eps
  k = max(int((0.04 if norm == "l1" else 0.22) * num_steps), 1)
  shrink, least = max(int(0.03 * num_steps), 1), max(int(0.06 * num_steps), 1)
  counter, reduced, best_before = 0, True, loss
  support = np.sum(point != x) if is_given else NUM_PIXELS
  sparsity = support / NUM_PIXELS / 1.5 if is_given else 0.2
  for i in range(num_steps):
    displacement, previous = point - previous, point
    ahead = project(point + size * direction(gradient, norm, sparsity), x, norm, eps)
    if norm != "l1":
      a = 0.75 if i else 1.0
      ahead = project(point + a * (ahead - point) + (1 - a) * displacement, x, norm, eps)
    point = ahead
    loss, gradient, wrong = ask(point)
    fooling = point if wrong else fooling
    history[i] = loss
    if loss > best[0]:
      best = loss, point, gradient
    counter += 1
    if counter < k:
      continue
    counter = 0
    if norm == "l1":
      now = np.sum(best[1] != x)
      sparsity = now / NUM_PIXELS / 1.5
      back = now / support < 0.95
      size = eps if back else max(size / 1.5, eps / 10)
      support = now
    else:
      rises = sum(history[i - c] > history[i - c - 1] for c in range(k))
      back = rises <= rho * k or (not reduced and best_before >= best[0])
      size = size / 2 if back else size
      reduced, best_before, k = back, best[0], max(k - shrink, least)
    if back:
      point, gradient = best[1:]
  return best[0], best[1], fooling


@functools.partial(jax.jit, static_argnames="loss_fn")
def ask_net(z, label, loss_fn):
  """Loss, gradient and whether the label is missed, of one image."""

  def loss_at(z):
    outputs = logits_fn(z[None])
    return loss_fn(outputs, label[None])[0], outputs[0]

  (loss, outputs), gradient = jax.value_and_grad(loss_at, has_aux=True)(z)
  return loss, gradient, jnp.argmax(outputs) != label


def make_ask(loss_fn, label):
  """`ask_net` of one label, with results for NumPy."""

  def ask(z):
    loss, gradient, wrong = ask_net(z, label, loss_fn)
    return float(loss), np.asarray(gradient), bool(wrong)

  return ask


def run_from_start(search, ball, problem):
  """The first point and the last state of a run, on the host."""

  @jax.jit
  def both(problem):
    state = stepwise.run(search, with_keys, problem, ball=ball)
    return search.init(ball, problem).point, state._replace(problem=None)

  return jax.device_get(both(problem))


LOOPS = {
  "linf": ("linf", losses.cross_entropy, True),
  "linf_dlr": ("linf", losses.dlr, True),
  "l2": ("l2", losses.cross_entropy, True),
  "l2_dlr": ("l2", losses.dlr, True),
  "l1": ("l1", losses.cross_entropy, True),
  "l1_random": ("l1", losses.cross_entropy, False),
}


@pytest.mark.parametrize("case", mostly_slow(LOOPS, "linf_dlr", "l2", "l1_random"))
def test_a_plain_loop_gives_the_same(case):
  norm, loss_fn, is_given = LOOPS[case]
  eps = RADII[norm] / (4 if norm == "l1" else 2)
  with jax.enable_x64(True):
    problem = make_problem(jnp.float64)
    x, labels = np.asarray(problem.x), np.asarray(problem.labels)
    ball = BALLS[norm](eps)
    shift = np.random.default_rng(2).normal(size=x.shape)
    given = jnp.asarray(x + 0.02 * shift) if is_given else None
    search = apgd_search(over_labels(loss_fn), num_steps=50, start=given)
    start, state = run_from_start(search, ball, problem)
    assert np.all(state.count == 51)
    for i in range(NUM_ROWS):
      ask = make_ask(loss_fn, labels[i])
      best_loss, best_x, fooling = plain_loop(ask, x[i], start[i], norm, eps, 50, is_given=is_given)
      np.testing.assert_allclose(state.best_loss[i], best_loss, rtol=1e-7)
      np.testing.assert_allclose(state.best_x[i], best_x, atol=1e-7)
      assert state.found[i] == (fooling is not None)
      np.testing.assert_allclose(state.x_adv[i], best_x if fooling is None else fooling, atol=1e-7)
  assert np.any(state.found) and not np.all(state.found)
  if norm == "l2":
    assert np.unique(state.step_size).size > 1  # the rows went different ways


def test_large_radii_are_three_runs_one_after_the_other():
  eps, num_steps = RADII["l1"], 50
  with jax.enable_x64(True):
    problem = make_problem(jnp.float64)
    x, labels = np.asarray(problem.x), np.asarray(problem.labels)
    search = apgd_search(over_labels(losses.cross_entropy), num_steps=num_steps, large_radii=True)
    start, state = run_from_start(search, l1_ball(eps), problem)
    np.testing.assert_allclose(np.abs(start - x).sum(1), 3 * eps, rtol=1e-6)
    assert search.num_steps == num_steps + 3
    for i in range(NUM_ROWS):
      ask = make_ask(losses.cross_entropy, labels[i])
      point = start[i]
      for factor, part in ((3, 15), (2, 15), (1, 20)):
        best_loss, point, fooling = plain_loop(ask, x[i], point, "l1", factor * eps, part)
      np.testing.assert_allclose(state.best_loss[i], best_loss, rtol=1e-7)
      assert state.found[i] == (fooling is not None)


def test_checkpoints_are_the_published_ones():
  expected = {
    20: [4, 7, 9, 10, 11],
    50: [11, 21, 30, 38, 45],
    100: [22, 41, 57, 70, 80, 87, 93, 99],
    200: [44, 82, 114, 140, 160, 174, 186, 198],
  }
  for num_steps, checkpoints in expected.items():
    ours = np.cumsum(checkpoint_periods(num_steps, "l2"))
    np.testing.assert_array_equal(ours[: len(checkpoints)], checkpoints)
    assert len(ours) == len(checkpoints) or num_steps == 20
  assert checkpoint_periods(100, "l1") == [4] * 25
  assert checkpoint_periods(30, "l1") == [1] * 30
  assert checkpoint_periods(0, "linf") == []


@pytest.mark.thorough
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_rows_at_different_counts_do_not_mix(norm):
  # What a driver does that gives the rows of fallen images to others.
  problem, ball = make_problem(), BALLS[norm](RADII[norm])
  search = apgd_search(over_labels(losses.cross_entropy), num_steps=20)
  advance = jax.jit(
    lambda state: stepwise.advance(search, ball, with_keys, state, stop_when_found=False)
  )
  state = fresh = jax.jit(search.init)(ball, problem)
  late = np.arange(NUM_ROWS) % 2 == 0
  for _ in range(7):
    state = advance(state)
  state = jax.jit(stepwise.select)(late, fresh, state)
  for _ in range(search.num_steps):
    state = advance(state)
  together = run(problem, RADII[norm], norm, (("num_steps", 20),))
  np.testing.assert_array_equal(state.count, together.count)
  np.testing.assert_allclose(state.best_loss, together.best_loss, rtol=1e-5)
  np.testing.assert_array_equal(state.found, together.found)


@every_norm
def test_starts_are_as_published(norm):
  x, labels = np.full((64, 300), 0.5, np.float32), np.zeros(64, np.int32)
  problem = stepwise.Problem(x, labels, labels, as_keys(jax.random.key(0), 64))
  init = jax.jit(apgd_search(over_labels(losses.margin)).init)
  delta = np.asarray(init(BALLS[norm](0.25), problem).point) - x
  order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
  np.testing.assert_allclose(np.linalg.norm(delta, order, axis=1), 0.25, rtol=1e-5)  # on the sphere
  if norm == "linf":  # where only the largest entry is, the others being uniform below it
    assert np.all(np.sum(np.abs(delta) > 0.2499999, axis=1) <= 2)
    np.testing.assert_allclose(np.std(delta), 0.25 / np.sqrt(3), rtol=0.02)
  assert abs(np.mean(np.sign(delta))) < 0.03


@pytest.mark.parametrize(
  ("norm", "large_radii"), [*((norm, False) for norm in BALLS), ("linf", True), ("l1", True)]
)
def test_result_is_in_ball_and_box(norm, large_radii):
  problem = make_problem()
  options = (("num_steps", 20), ("large_radii", True)) if large_radii else (("num_steps", 20),)
  state = run(problem, RADII[norm], norm, options)
  distance = BALLS[norm](RADII[norm]).distance(state.x_adv, problem.x)
  assert np.all(distance <= RADII[norm] * (1 + 1e-6)) and np.all(distance > 0.1 * RADII[norm])
  assert state.x_adv.min() >= 0 and state.x_adv.max() <= 1
  zero = run(problem, 0.0, norm, options)
  np.testing.assert_array_equal(zero.x_adv, problem.x)
  assert not np.any(zero.found)


@every_norm
def test_found_is_a_misclassified_point(norm):
  problem = make_problem()
  state = run(problem, RADII[norm] / (4 if norm == "l1" else 2), norm, (("num_steps", 20),))
  assert np.any(state.found) and not np.all(state.found)
  wrong = np.argmax(logits_fn(state.x_adv), axis=-1) != problem.labels
  np.testing.assert_array_equal(wrong, state.found)


@every_norm
def test_linear_optimum_is_reached(norm):
  weights = np.asarray(jax.random.normal(jax.random.key(1), (NUM_PIXELS, 2)))
  x, labels = np.full((4, NUM_PIXELS), 0.5, np.float32), np.array([0, 1, 0, 1])
  problem = stepwise.Problem(x, labels, labels, as_keys(jax.random.key(0), 4))
  search = apgd_search(over_labels(losses.margin), num_steps=60)
  state = jax.jit(
    lambda p: stepwise.run(search, lambda x, keys: x @ weights, p, ball=BALLS[norm](0.2))
  )(problem)
  slope = weights[:, 1] - weights[:, 0]
  dual = {"linf": np.abs(slope).sum(), "l2": np.linalg.norm(slope), "l1": np.abs(slope).max()}
  rise = state.best_loss - losses.margin(jnp.asarray(x @ weights), jnp.asarray(labels))
  # In l1 two or three pixels are moved together to the end, where one would be best.
  assert np.all(rise <= 0.2 * dual[norm] * (1 + 1e-5))
  assert np.all(rise >= 0.2 * dual[norm] * (0.9 if norm == "l1" else 0.999))


def test_fooled_at_a_larger_radius_only_does_not_count():
  def threshold(x):
    return jnp.stack([0.3 - (x[:, 0] - 0.5), x[:, 0] - 0.5], axis=1)  # falls 0.15 from x

  x, labels = np.full((3, 2), 0.5, np.float32), np.zeros(3, np.int32)
  problem = stepwise.Problem(x, labels, labels, as_keys(jax.random.key(0), 3))
  search = apgd_search(over_labels(losses.margin), num_steps=20, large_radii=True)

  @jax.jit
  def attempt(problem, eps):
    return stepwise.run(search, lambda x, keys: threshold(x), problem, ball=l1_ball(eps))

  state = attempt(problem, 0.1)
  assert not np.any(state.found) and np.all(np.abs(state.x_adv - x).sum(1) <= 0.1 + 1e-6)
  np.testing.assert_allclose(np.asarray(state.x_adv)[:, 0], 0.6, atol=1e-3)
  assert np.all(attempt(problem, 0.2).found)


def test_more_restarts_never_help_the_defender():
  x, labels = make_images()
  eps = 0.09

  def success(num_restarts):
    attack = functools.partial(apgd, num_steps=3, num_restarts=num_restarts, ball=linf_ball(eps))
    x_adv = jax.jit(lambda x, y: attack(logits_fn, x, y, jax.random.key(0)))(x, labels)
    return np.asarray(np.argmax(logits_fn(x_adv), axis=-1) != labels)

  few, more = success(1), success(6)
  assert np.all(more[few])


def test_eot_averages_the_gradient_over_draws():
  # One draw of a weight is negative three times in eight; the mean of 64 draws hardly ever.
  def noisy(x, rng):
    weights = 1 + 3 * jax.random.normal(rng, x.shape)
    return jnp.stack([0.0 * x[:, 0] + 1e3, (weights * (x - 0.5)).sum(axis=1)], axis=1)

  x, labels = np.full((16, NUM_PIXELS), 0.5, np.float32), np.zeros(16, np.int32)

  def mean_rise(eot):
    attack = functools.partial(apgd, noisy, ball=linf_ball(0.1), num_steps=4, eot=eot)
    x_adv = jax.jit(lambda x: attack(x, labels, jax.random.key(0), loss_fn=losses.margin))(x)
    return (np.asarray(x_adv) - x).sum(axis=1).mean()

  assert mean_rise(64) > 1.0 > 1.5 * mean_rise(1)  # 1.2 is all there is


def test_eot_of_a_deterministic_net_changes_nothing():
  problem = make_problem()
  once = run(problem, 0.3, "l2", (("num_steps", 20),))
  thrice = run(problem, 0.3, "l2", (("num_steps", 20), ("eot", 3)))
  np.testing.assert_allclose(once.best_loss, thrice.best_loss, rtol=1e-4)


def test_nan_logits_are_no_success_and_no_maximum():
  @jax.jit
  def broken(x):
    outputs = logits_fn(x)
    return jnp.where(x[:, :1] > 0.05, jnp.nan, outputs)

  problem = make_problem()  # the first pixel is 0
  search = apgd_search(over_labels(losses.cross_entropy), num_steps=20)
  state = jax.jit(
    lambda p: stepwise.run(search, lambda x, keys: broken(x), p, ball=linf_ball(0.1))
  )(problem)
  assert np.all(np.isfinite(state.x_adv)) and not np.any(np.isnan(state.best_loss))
  assert np.all(np.isfinite(broken(state.x_adv))[state.found])


def test_exits_are_fooled_where_all_are():
  first, second = jnp.array([[0.0, 1.0], [0.0, 1.0]]), jnp.array([[0.0, 1.0], [1.0, 0.0]])
  labels = jnp.array([0, 0])
  assert misclassified((first, second), labels).tolist() == [True, False]
  x, labels = make_images()
  two = jax.jit(
    lambda x: apgd(
      lambda x: (logits_fn(x), 2 * logits_fn(x)), x, labels, jax.random.key(0),
      ball=linf_ball(0.1), num_steps=5,
    )
  )(x)  # fmt: skip
  assert two.shape == x.shape


def test_targets_are_the_likeliest_wrong_classes():
  outputs = jnp.array([[3.0, 1.0, 2.0, 0.0], [3.0, 1.0, 2.0, 0.0]])
  goals = likeliest_wrong(outputs, jnp.array([0, 2]), 9)
  np.testing.assert_array_equal(goals.T, [[2, 1, 3], [0, 1, 3]])
  assert likeliest_wrong((outputs, outputs), jnp.array([0, 2]), 2).shape == (2, 2)
  with pytest.raises(ValueError, match="num_targets=0: expected a whole number"):
    likeliest_wrong(outputs, jnp.array([0, 2]), 0)


@pytest.mark.thorough
@every_norm
def test_targeted_runs_find_what_one_run_finds(norm):
  x, labels = make_images()
  ball = BALLS[norm](RADII[norm])
  attack = functools.partial(apgd_targeted, logits_fn, ball=ball, num_steps=20, num_restarts=2)
  x_adv = jax.jit(attack)(x, labels, jax.random.key(0))
  wrong = np.asarray(np.argmax(logits_fn(x_adv), axis=-1) != labels)
  one = np.asarray(run(make_problem(), RADII[norm], norm, (("num_steps", 20),)).found)
  assert np.all(wrong[one])
  assert np.all(ball.distance(x_adv, x) <= RADII[norm] * (1 + 1e-6))


def test_wrong_calls_say_what_is_wrong():
  x, labels = make_images()
  attack = functools.partial(apgd, logits_fn, x, labels, jax.random.key(0), ball=linf_ball(0.1))
  with pytest.raises(ValueError, match="num_restarts=2 with start"):
    attack(start=x, num_restarts=2)
  with pytest.raises(ValueError, match="eot=0"):
    attack(eot=0)
  with pytest.raises(TypeError):
    apgd(logits_fn, jnp.zeros(x.shape, jnp.uint8), labels, jax.random.key(0), ball=linf_ball(0.1))
  with pytest.raises(ValueError, match="targeted_dlr needs at least 4"):
    jax.eval_shape(
      lambda x: apgd_targeted(
        lambda x: x[:, :3], x, labels % 3, jax.random.key(0), ball=linf_ball(0.1), num_steps=1
      ),
      x,
    )
