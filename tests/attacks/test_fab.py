"""FAB against the loop of its paper, and against the known optimum of linear classifiers."""

import functools

import fab_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fab_reference import NORMS

from jax_robust.attacks import BALLS, stepwise
from jax_robust.attacks.fab import fab, fab_targeted
from jax_robust.attacks.fab_search import fab_search
from jax_robust.types import as_keys

SIZE, NUM_CLASSES, NUM_ROWS = 12, 5, 6
WHOLE_BOX = {"linf": 1.0, "l2": SIZE**0.5, "l1": float(SIZE)}
# About half of the images can be fooled in them.
RADII = {"linf": 0.05, "l2": 0.15, "l1": 0.3}

every_norm = pytest.mark.parametrize("norm", NORMS)
every_attack = pytest.mark.parametrize("attack", [fab, fab_targeted])

draw = np.random.default_rng(3)
WEIGHTS = draw.normal(size=(SIZE, 16)) * 0.7, draw.normal(size=(16, NUM_CLASSES))


@jax.jit
def net(x, curvature=1.0):
  """A dense net of two layers on 2 x 2 x 3 pixels; linear where the curvature is 0."""
  w1, w2 = (jnp.asarray(each, x.dtype) for each in WEIGHTS)
  hidden = (x.reshape(x.shape[0], -1) - 0.5) @ w1
  return (hidden + curvature * (jnp.tanh(hidden) - hidden)) @ w2


linear = functools.partial(net, curvature=0.0)


def problem(logits_fn=net, dtype=jnp.float32):
  """Images, some pixels of which lie on the faces of the box, and the classes of the net."""
  x = np.array(jax.random.uniform(jax.random.key(0), (NUM_ROWS, 2, 2, 3), dtype))
  x[:, 0, 0, 0], x[:, 0, 0, 1] = 0.0, 1.0
  return jnp.asarray(x), jnp.asarray(classes(logits_fn, x))


def classes(logits_fn, x):
  return np.argmax(logits_fn(x), axis=-1).astype(np.int32)


@functools.cache
def jitted(attack, norm):
  """The attack, compiled once for most tests; eps and the curvature of the net are traced."""

  @jax.jit
  def run(x, labels, keys, eps, curvature):
    logits_fn = functools.partial(net, curvature=curvature)
    return attack(lambda x: logits_fn(x), x, labels, keys, ball=BALLS[norm](eps), num_steps=20)

  return run


def attacked(attack, norm, eps, curvature=1.0):
  """x, labels and x_adv of the standard problem."""
  x, labels = problem(functools.partial(net, curvature=curvature))
  keys = as_keys(jax.random.key(1), NUM_ROWS)
  return x, labels, jitted(attack, norm)(x, labels, keys, jnp.float32(eps), curvature)


@every_norm
@pytest.mark.parametrize("targeted", [False, True])
def test_iterates_are_those_of_the_paper(norm, targeted):
  num_steps = 20
  with jax.enable_x64(True):
    x, labels = problem(dtype=jnp.float64)
    goals = (labels + 1) % NUM_CLASSES
    search = fab_search(num_steps=num_steps, targeted=targeted)
    ball, keys = BALLS[norm](WHOLE_BOX[norm]), as_keys(jax.random.key(0), NUM_ROWS)
    advance = functools.partial(stepwise.advance, search, ball, lambda x, keys: net(x))
    advance = jax.jit(functools.partial(advance, stop_when_found=False))
    state = jax.jit(search.init)(ball, stepwise.Problem(x, labels, goals, keys))
    points = []
    while not np.all(stepwise.is_done(search, state, stop_when_found=False)):
      state = advance(state)
      points.append(np.asarray(state.point).reshape(NUM_ROWS, -1))
    one = jax.jit(lambda z: net(z[None])[0])
    jacobian = jax.jit(jax.jacrev(one))
    x, labels, goals = (np.asarray(each) for each in (x, labels, goals))
    found, distance = np.asarray(state.found), np.asarray(state.distance)
    both = lambda z: (np.asarray(one(z)), np.asarray(jacobian(z)))  # noqa: E731
    for i in range(NUM_ROWS):
      flat, goal = x[i].ravel(), int(goals[i]) if targeted else None
      expected, best = fab_reference.fab_points(
        both, flat, int(labels[i]), norm=norm, num_steps=num_steps, goal=goal
      )
      np.testing.assert_allclose(np.array(points)[:, i], expected, atol=1e-8)
      if best is None:
        assert not found[i]
      else:  # a point that was moved back and is still adversarial counts here
        assert distance[i] <= NORMS[norm](best - flat) + 1e-8
        assert distance[i] >= 0.89 * NORMS[norm](best - flat)


def distances_to_boundary(x, label, norm):
  """Those of the linear classifier to every other class, the box included, in float64."""
  w = (WEIGHTS[0] @ WEIGHTS[1]).T
  logits = w @ (x - 0.5)
  return [
    NORMS[norm](fab_reference.move(x, w[s] - w[label], logits[s] - logits[label], norm))
    for s in range(NUM_CLASSES)
    if s != label
  ]


@every_norm
@every_attack
def test_linear_minimum_is_reached(norm, attack):
  eps = jnp.float32(WHOLE_BOX[norm])
  x, _ = problem()
  if attack is fab:  # it compares the boundaries as if there were no box
    x = 0.5 + 0.25 * (x - 0.5)
  labels, keys = classes(linear, x), as_keys(jax.random.key(1), NUM_ROWS)
  x_adv = jitted(attack, norm)(x, labels, keys, eps, 0.0)
  assert np.all(classes(linear, x_adv) != labels)
  for i in range(NUM_ROWS):
    flat, flat_adv = (np.asarray(each, np.float64)[i].ravel() for each in (x, x_adv))
    least = min(distances_to_boundary(flat, int(labels[i]), norm))
    assert least * (1 - 1e-5) <= NORMS[norm](flat_adv - flat) <= 1.01 * least


@every_norm
@every_attack
def test_result_is_adversarial_and_in_the_ball_or_is_x(norm, attack):
  eps = RADII[norm]
  x, labels, x_adv = attacked(attack, norm, eps)
  fooled = np.asarray(classes(net, x_adv) != labels)
  assert 0 < np.sum(fooled) < NUM_ROWS, "the radius shows one case only"
  ball = BALLS[norm](eps)
  assert np.all(ball.distance(x_adv, x)[fooled] <= eps * (1 + 1e-6))
  assert x_adv.min() >= 0 and x_adv.max() <= 1
  np.testing.assert_array_equal(x_adv[~fooled], x[~fooled])
  _, _, anywhere = attacked(attack, norm, WHOLE_BOX[norm])
  np.testing.assert_array_equal(x_adv[fooled], anywhere[fooled])
  assert np.all(classes(net, anywhere) != labels)
  assert np.all(ball.distance(anywhere, x)[~fooled] > eps)


@every_norm
@every_attack
def test_zero_radius_is_the_identity(norm, attack):
  x, _, x_adv = attacked(attack, norm, 0.0)
  np.testing.assert_array_equal(x_adv, x)


@every_norm
@every_attack
def test_result_is_independent_of_the_batch(norm, attack):
  x, labels, together = attacked(attack, norm, WHOLE_BOX[norm])
  keys, row = as_keys(jax.random.key(1), NUM_ROWS), jnp.full(NUM_ROWS, 2)
  others = jnp.float32(WHOLE_BOX[norm]), 1.0
  alone = jitted(attack, norm)(x[row], labels[row], keys[row], *others)
  np.testing.assert_allclose(alone[4], together[2], atol=2e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("attack", [fab, functools.partial(fab_targeted, num_targets=1)])
def test_restarts_never_go_further(attack):
  """On a net whose boundaries are folded, where a start elsewhere leads elsewhere."""
  folded = jax.jit(lambda x: jnp.sin(net(x)))
  x, labels = problem(folded)
  ball, distances = BALLS["l2"](WHOLE_BOX["l2"]), []
  for num_restarts in (1, 6):
    run = functools.partial(attack, folded, num_steps=6, num_restarts=num_restarts)
    x_adv = jax.jit(functools.partial(run, ball=ball))(x, labels, jax.random.key(0))
    distances.append(ball.distance(x_adv, x))
    assert np.all(classes(folded, x_adv) != labels)
  assert np.all(distances[1] <= distances[0]) and np.any(distances[1] < distances[0])


@every_norm
def test_random_start_is_half_a_radius_away(norm):
  x = jnp.full((4, 2, 2, 3), 0.5)
  labels, keys = jnp.zeros(4, jnp.int32), as_keys(jax.random.key(0), 4)
  radius = jnp.asarray([0.0, 0.1, 0.2, 0.3])
  search = fab_search(targeted=True, random_start=True)
  ball = BALLS[norm](radius)
  state = jax.jit(search.init)(ball, stepwise.Problem(x, labels, labels, keys))
  np.testing.assert_allclose(ball.distance(state.point, x), radius / 2, atol=1e-6)
  assert len(np.unique(np.sign(state.point - x)[1:].reshape(3, -1), axis=0)) == 3


@every_attack
def test_misclassified_image_is_its_own_nearest_point(attack):
  x, labels = problem()
  keys = as_keys(jax.random.key(1), NUM_ROWS)
  x_adv = jitted(attack, "linf")(x, (labels + 1) % NUM_CLASSES, keys, jnp.float32(0.5), 1.0)
  np.testing.assert_array_equal(x_adv, x)


@every_attack
def test_probabilities_stand_for_their_arg_max(attack):
  x, labels, x_adv = attacked(attack, "l2", 0.5)
  keys = as_keys(jax.random.key(1), NUM_ROWS)
  probabilities = 0.5 * jax.nn.one_hot(labels, NUM_CLASSES) + 0.1
  again = jitted(attack, "l2")(x, probabilities, keys, jnp.float32(0.5), 1.0)
  np.testing.assert_allclose(again, x_adv, atol=2e-6)


@every_attack
def test_randomised_model_gets_a_key_of_its_own_in_every_pass(attack):
  x, labels = problem()
  seen = []

  def noisy(x, rng):
    jax.debug.callback(lambda key: seen.append(key.tobytes()), jax.random.key_data(rng))
    return net(x) + 0.01 * jax.random.normal(rng, (x.shape[0], NUM_CLASSES))

  run = jax.jit(functools.partial(attack, noisy, ball=BALLS["l2"](0.5), num_steps=3))
  run(x[:1], labels[:1], jax.random.key(0))
  jax.effects_barrier()
  runs = 1 if attack is fab else NUM_CLASSES - 1
  assert len(seen) == len(set(seen)) == 2 * 3 * runs + (attack is fab_targeted)


@every_attack
def test_non_finite_logits_are_not_found_and_move_nothing(attack):
  x, labels = problem()
  broken = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
  logits_fn = lambda x: net(x).at[:3].set(broken[:, None])  # noqa: E731
  # The arg max of three equal infinities is class 0.
  labels = labels.at[:3].set(0)
  run = jax.jit(functools.partial(attack, logits_fn, ball=BALLS["linf"](1.0), num_steps=3))
  x_adv = run(x, labels, jax.random.key(0))
  np.testing.assert_array_equal(x_adv[:3], x[:3])
  assert np.all(classes(net, x_adv)[3:] != labels[3:])


def test_gradients_that_are_not_numbers_do_not_stop_the_others():
  x, labels = problem()
  # The derivative of the square root at 0 is infinite, times 0 NaN; the pixel lies at 0.
  logits_fn = lambda x: net(x) + 0 * jnp.sqrt(x[:, 0, 0, :1])  # noqa: E731
  ball = BALLS["linf"](1.0)
  x_adv = fab_targeted(logits_fn, x, labels, jax.random.key(0), ball=ball, num_targets=1)
  assert np.all(classes(net, x_adv) != labels)


@every_attack
def test_wrong_arguments_are_refused(attack):
  x, labels = problem()
  call = functools.partial(attack, net, x, labels, jax.random.key(0), ball=BALLS["linf"](0.1))
  with pytest.raises(ValueError, match="num_restarts=0"):
    call(num_restarts=0)
  with pytest.raises(ValueError, match="num_steps=-1"):
    call(num_steps=-1)
  with pytest.raises(TypeError, match="num_step"):
    call(num_step=1)
  exits = lambda x: (net(x), net(x))  # noqa: E731
  with pytest.raises(ValueError, match="fab.* needs one array .*select_exit"):
    attack(exits, x, labels, jax.random.key(0), ball=BALLS["linf"](0.1), num_steps=1)


def test_no_target_is_refused():
  x, labels = problem()
  with pytest.raises(ValueError, match="num_targets"):
    fab_targeted(net, x, labels, jax.random.key(0), ball=BALLS["linf"](0.1), num_targets=0)
