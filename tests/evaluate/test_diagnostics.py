"""Evaluators of every exit, of features and of directions: closed forms on linear nets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks
from jax_robust.evaluate import diagnostics, evaluators
from jax_robust.nets.exits import select_exit

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
X = jnp.asarray(DRAW.uniform(0.2, 0.8, (12, 2, 2, 1)), jnp.float32)
EARLY, LATE = (jnp.asarray(DRAW.normal(size=(4, 2)), jnp.float32) for _ in range(2))
EPS = 0.1


def flat(x):
  return x.reshape(len(x), -1) - 0.5


def early(x):
  return flat(x) @ EARLY


def late(x):
  return 3 * flat(x) @ LATE


def two_exits(x):
  return early(x), late(x)


LABELS = np.asarray(jnp.argmax(early(X), -1)) ^ (np.arange(12) % 4 == 0)


def fgsm(eps):
  return functools.partial(attacks.fgsm, ball=attacks.linf_ball(eps))


def robust(aim, outputs_fn=two_exits):
  evaluate = functools.partial(diagnostics.attacked_exits, attack=fgsm, eps=EPS, aim=aim)
  found = jax.jit(functools.partial(evaluate, outputs_fn))(X, LABELS, KEY)
  return {name: np.asarray(flags) for name, flags in found.items()}


def margin_left(kernel, direction):
  """Whether a linear exit stays right when x moves by eps along the sign of a direction."""
  moved = flat(X) + EPS * np.sign(direction)
  wrong_minus_right = (moved @ kernel)[np.arange(12), 1 - LABELS] - (moved @ kernel)[
    np.arange(12), LABELS
  ]
  return wrong_minus_right < 0


def ascent(kernel, scale=1.0):
  """The gradient of the cross entropy of a linear exit with two classes."""
  probs = jax.nn.softmax(scale * flat(X) @ kernel)
  return scale * (probs - jax.nn.one_hot(LABELS, 2)) @ kernel.T


def test_clean_exits_are_the_exits():
  found = diagnostics.clean_exits(two_exits, X, LABELS, KEY)
  for name, exit_ in (("0", early), ("1", late)):
    np.testing.assert_array_equal(found[name], np.argmax(exit_(X), -1) == LABELS)
  assert list(diagnostics.clean_exits(early, X, LABELS, KEY)) == ["0"]


def test_an_attack_on_the_average_ascends_the_mean_loss():
  direction = ascent(EARLY) + ascent(LATE, 3.0)
  found = robust("average")
  for name, kernel, exit_ in (("0", EARLY, early), ("1", LATE, late)):
    clean = np.argmax(exit_(X), -1) == LABELS
    np.testing.assert_array_equal(found[name], clean & margin_left(kernel, direction))


def test_own_aim_is_the_exit_alone():
  found = robust("own")
  for number, name in enumerate("01"):
    alone = evaluators.attacked(
      select_exit(two_exits, number), X, LABELS, KEY, attack=fgsm, eps=EPS
    )
    np.testing.assert_array_equal(found[name], alone["correct"])
  assert (
    found["0"].sum() < robust(1)["0"].sum()
  )  # the early exit hardly feels the late one's attack


def test_robust_exits_are_clean_exits():
  clean = diagnostics.clean_exits(two_exits, X, LABELS, KEY)
  for aim in ("average", "own", "last", 0, "1"):
    found = robust(aim)
    assert not found.pop("lost").any() and list(found) == ["0", "1"]
    assert not any(np.any(found[name] & ~np.asarray(clean[name])) for name in "01")
  np.testing.assert_array_equal(robust("last")["0"], robust(1)["0"])


@pytest.mark.parametrize(
  ("aim", "message"),
  [(2, "aim=2: .*0 to 1"), ("-3", "aim=-3"), ("avrage", "aim='avrage': did you mean 'average'")],
)
def test_an_aim_that_is_none_is_named(aim, message):
  with pytest.raises(ValueError, match=message):
    robust(aim)


def test_labels_outside_the_classes_are_refused():
  with pytest.raises(ValueError, match="labels"):
    diagnostics.clean_exits(two_exits, X, np.full(12, 2), KEY)


def shift(eps):
  return lambda logits_fn, x, targets, rng: x + eps


def test_feature_distances_have_their_closed_form():
  def blocks_fn(x):
    return (x, jnp.concatenate([3 * x, 4 * x], axis=-1)), two_exits(x)

  found = diagnostics.feature_distance(blocks_fn, X, LABELS, KEY, attack=shift, eps=EPS)
  norm = np.linalg.norm(X.reshape(12, -1), axis=1)
  for name, expected in {
    "absolute/0": 2 * EPS, "absolute/1": 10 * EPS,  # of four pixels, of which each moves by eps
    "relative/0": 2 * EPS / norm, "relative/1": 2 * EPS / norm,
    "pooled/0": EPS, "pooled/1": 5 * EPS,
  }.items():  # fmt: skip
    np.testing.assert_allclose(found[name], np.broadcast_to(expected, 12), rtol=1e-4, err_msg=name)


def align(outputs_fn, attack=fgsm):
  return diagnostics.gradient_alignment(outputs_fn, X, LABELS, KEY, attack=attack, eps=EPS)


def test_linear_nets_are_aligned():
  found = align(early)
  np.testing.assert_allclose(found["noise"], 1.0, rtol=1e-5)
  np.testing.assert_allclose(found["directions"], 1.0, rtol=1e-5)
  assert not np.any(found["vanished"])


def test_cosines_have_their_closed_form():
  """An attack along one axis, against FGSM along the diagonal of four pixels."""

  def one_axis(eps):
    return lambda logits_fn, x, targets, rng: x.at[:, 0, 0, 0].add(eps)

  sign = np.sign(np.asarray(ascent(EARLY)))[:, 0]
  np.testing.assert_allclose(align(early, one_axis)["directions"], sign / 2, rtol=1e-5)


def test_a_bent_loss_is_less_aligned():
  bent = align(lambda x: jnp.sin(60 * flat(x)) @ EARLY)
  assert np.mean(bent["noise"]) < 0.8


def test_a_gradient_that_vanishes_is_marked():
  found = align(lambda x: 0 * early(x))
  assert np.all(found["vanished"]) and not np.any(found["noise"])


def test_small_gradients_have_a_direction():
  np.testing.assert_allclose(align(lambda x: 1e-25 * early(x))["noise"], 1.0, rtol=1e-5)


@pytest.mark.parametrize("aim", ["average", "own"])
def test_a_lost_point_is_no_attack(aim):
  """Of each exit by itself: here the late one's logits overflow where the attack has been."""
  still = diagnostics.clean_exits(two_exits, X, LABELS, KEY)
  moved = lambda logits_fn, x, targets, rng: x + 0.2  # noqa: E731
  breakable = lambda x: (early(x), jnp.where(flat(x)[:, :1] > 0.3, jnp.inf, late(x)))  # noqa: E731
  found = diagnostics.attacked_exits(
    breakable, X, LABELS, KEY, attack=lambda eps: moved, eps=EPS, aim=aim
  )
  lost = np.asarray(flat(X + 0.2)[:, 0] > 0.3)
  assert lost.any() and np.any(still["1"][lost])
  np.testing.assert_array_equal(found["lost"], lost)
  np.testing.assert_array_equal(found["1"][lost], still["1"][lost])
  np.testing.assert_array_equal(found["0"], still["0"] & (np.argmax(early(X + 0.2), -1) == LABELS))
