"""What losses of several exits, weights and cosines refuse, and what they keep at the edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import as_a_user  # noqa: F401

from jax_robust import losses

pytestmark = pytest.mark.fast

LABELS = jnp.array([0, 4, 2, 1, 1, 3])
EXITS = tuple(
  jnp.asarray(np.random.default_rng(number).normal(size=(6, 5)) * 2, jnp.float32)
  for number in range(3)
)


@pytest.mark.parametrize(
  ("weight", "message"),
  [
    (-1.0, "weight=-1.0: expected a finite number of at least 0"),
    (float("nan"), "weight=nan"),
    (None, "weight=None: expected a number"),
    ("1", "weight='1'"),
    (np.ones(2), r"weight has shape \(2,\): expected one number, or one for each"),
    (np.ones((len(LABELS), 1)), r"weight has shape \(\d+, 1\)"),
  ],
)
def test_what_is_no_weight_is_refused(weight, message):
  with pytest.raises((TypeError, ValueError), match=message):
    losses.slowdown_loss(weight=weight)(EXITS, LABELS)


def test_a_weight_of_each_image():
  found = losses.slowdown_loss(weight=jnp.arange(1.0, len(LABELS) + 1))(EXITS, LABELS)
  each = [losses.slowdown_loss(weight=i + 1.0)(EXITS, LABELS)[i] for i in range(len(LABELS))]
  np.testing.assert_allclose(found, each, rtol=1e-5)


def test_a_loss_that_is_marked_is_not_changed_itself():
  """`losses.margin` of the whole package would take exits from then on."""
  losses.of_all_exits(losses.margin)
  assert losses.over_exits(losses.margin)(EXITS, LABELS).shape == (len(LABELS),)


def test_the_mark_outlasts_a_partial_and_a_method_can_have_it():
  class Mine:
    def loss(self, outputs, targets):
      return losses.margin(outputs[0], targets)

  partial = functools.partial(losses.cross_entropy_to_uniform)
  for loss in (partial, jax.jit(losses.cross_entropy_to_uniform)):
    found = losses.over_exits(loss)(EXITS, LABELS)
    np.testing.assert_allclose(found, losses.cross_entropy_to_uniform(EXITS), rtol=1e-6)
  found = losses.over_exits(losses.of_all_exits(Mine().loss))(EXITS, LABELS)
  np.testing.assert_array_equal(found, losses.margin(EXITS[0], LABELS))


@pytest.mark.parametrize(
  ("run", "message"),
  [
    (lambda: losses.over_exits("margin"), "loss_fn='margin': expected a function, such as losses"),
    (lambda: losses.of_all_exits(None), "loss_fn=None: expected a function"),
    (lambda: losses.towards(3), "loss_fn=3: expected a function"),
    (lambda: losses.slowdown_loss(loss_fn="dlr"), "loss_fn='dlr'"),
    (
      lambda: losses.over_exits(lambda z, y: jnp.mean(losses.margin(z, y)))(EXITS, LABELS),
      r"loss_fn returned shape \(\): expected \(\d+,\), one number for each example",
    ),
    (
      lambda: losses.of_all_exits(lambda z, y: z[0])(EXITS, LABELS),
      "loss_fn returned shape .* one number for each example",
    ),
    (
      lambda: losses.over_exits(losses.margin)(EXITS, (LABELS,) * 9),
      "targets are a tuple of 9 arrays, one for each exit: the net has",
    ),
    (
      lambda: losses.margin(jnp.zeros((2, 2)), (np.array([1, 0]), np.array([1, 0]))),
      "targets are a tuple of 2 arrays: expected one array",
    ),
    (lambda: losses.margin(jnp.zeros((2, 2)), [[1], [0, 1]]), "lists of several lengths"),
  ],
)
def test_what_is_no_loss_of_each_example_is_refused(run, message):
  with pytest.raises((TypeError, ValueError), match=message):
    run()


ROWS = jnp.asarray(np.random.default_rng(5).normal(size=(3, 4)), jnp.float32)


@pytest.mark.parametrize(
  ("first", "second", "message"),
  [
    (ROWS, ROWS[:, :1], r"first has shape \(3, 4\) and second \(3, 1\): expected one shape"),
    (ROWS, ROWS[:1], "expected one shape"),
    (ROWS, ROWS[:2], "expected one shape"),
    (ROWS[0], ROWS[0], "expected one shape"),
    (ROWS[:0], ROWS[:0], "at least one example"),
    (ROWS[:, :0], ROWS[:, :0], "at least one number"),
    (ROWS.tolist(), ROWS, "first is a list: expected a floating-point array"),
    (ROWS, ROWS.astype(int), "second has dtype int32"),
    (ROWS * 1j, ROWS, "first has dtype complex64"),
    (None, ROWS, "first is a NoneType"),
  ],
)
def test_what_has_no_cosine_is_refused(first, second, message):
  with pytest.raises((TypeError, ValueError), match=message):
    losses.cosines(first, second)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_cosines_of_half_precision_are_summed_in_single(dtype):
  """The product of two sums of 3,072 squares is no float16; the cosine would be 0."""
  first = jnp.ones((1, 3072), dtype)
  found = losses.cosines(first, first.at[:, ::2].set(-1))
  assert found.dtype == jnp.float32 and abs(float(found[0])) < 1e-6
  np.testing.assert_allclose(losses.cosines(first, first), 1.0, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_cosines_of_what_is_not_finite_are_nan(value):
  found = losses.cosines(ROWS.at[1, 0].set(value), ROWS)
  assert np.isnan(found).tolist() == [False, True, False]
