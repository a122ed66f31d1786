"""What a tuple of outputs means: the last exit answers, unless another or the mean is chosen."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jax_robust.nets import exits
from jax_robust.nets.randomised import keyed, takes_rng

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
EARLY, MIDDLE, LATE = (jnp.asarray(DRAW.normal(size=(3, 4)) * 3, jnp.float32) for _ in range(3))
OUTPUTS = (EARLY, MIDDLE, LATE)


def model(x):
  return x, 3 * x, -x


def test_an_array_is_the_only_exit():
  assert exits.exits_of(EARLY) == (EARLY,)
  assert exits.exits_of(OUTPUTS) is OUTPUTS


@pytest.mark.parametrize(
  ("outputs", "message"),
  [
    ((EARLY, EARLY[:, :2]), r"a tuple of \(3, 4\), \(3, 2\): .* lambda x: model\(x\)\[0\]"),
    ({"logits": EARLY}, r"a dict: .* lambda x: model\(x\)\['logits'\]"),
    ([EARLY, EARLY], r"a list of \(3, 4\), \(3, 4\): expected logits"),
    ((), "a tuple of : expected logits"),
    ((EARLY, {"features": EARLY}), r"a tuple of \(3, 4\), dict: expected logits"),
    (None, "a NoneType: expected logits"),
  ],
)
def test_other_outputs_are_refused(outputs, message):
  for function in (exits.exits_of, exits.predictions, exits.mean_of_exits):
    with pytest.raises(ValueError, match=message):
      function(outputs)
  with pytest.raises(ValueError, match=message):
    exits.single_exit(outputs, "fab")


def test_the_last_exit_answers():
  assert exits.predictions(OUTPUTS) is LATE
  assert exits.predictions(EARLY) is EARLY


def test_the_mean_is_that_of_the_probabilities():
  mean = np.mean([special.softmax(np.float64(z), axis=1) for z in OUTPUTS], axis=0)
  np.testing.assert_allclose(exits.mean_of_exits(OUTPUTS), np.log(mean), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(jnp.exp(exits.mean_of_exits(OUTPUTS)).sum(1), 1.0, rtol=1e-6)


def test_the_mean_of_confident_exits_is_finite():
  far = jnp.array([[0.0, -1e4], [-1e4, 0.0]])
  np.testing.assert_allclose(exits.mean_of_exits((far, far)), [[0, -1e4], [-1e4, 0]], atol=1e-3)
  np.testing.assert_allclose(exits.mean_of_exits((far, far[::-1])), np.log(0.5), rtol=1e-6)


def test_gradient_of_the_mean_is_shared_by_responsibility():
  """d log mean_i p_i[y] / d z_i = (p_i[y] / sum_j p_j[y]) (onehot(y) - p_i)."""
  labels = np.array([0, 3, 1])
  rows = np.arange(3)

  def answer(outputs):
    return jnp.sum(exits.mean_of_exits(outputs)[rows, labels])

  probs = [special.softmax(np.float64(z), axis=1) for z in OUTPUTS]
  total = sum(p[rows, labels] for p in probs)
  for gradient, p in zip(jax.grad(answer)(OUTPUTS), probs, strict=True):
    expected = (p[rows, labels] / total)[:, None] * (np.eye(4)[labels] - p)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_single_exit_refuses_several_and_says_what_to_do():
  assert exits.single_exit(EARLY, "fab") is EARLY
  assert exits.single_exit((EARLY,), "fab") is EARLY
  with pytest.raises(ValueError, match=r"3 exits: fab needs one .*select_exit\(logits_fn, exit\)"):
    exits.single_exit(OUTPUTS, "fab")


@pytest.mark.parametrize(("exit", "expected"), [(0, 1), (1, 3), (2, -1), (-1, -1), ("last", -1)])
def test_one_exit_is_selected(exit, expected):
  np.testing.assert_array_equal(exits.select_exit(model, exit)(EARLY), expected * EARLY)


def test_the_mean_is_selected():
  mean = exits.select_exit(model, "mean")(EARLY)
  np.testing.assert_array_equal(mean, exits.mean_of_exits(model(EARLY)))


def test_the_mean_of_the_first_exits_is_selected():
  np.testing.assert_array_equal(exits.select_exit(model, "mean:0")(EARLY), EARLY)
  for last in (1, 2):
    mean = exits.select_exit(model, f"mean:{last}")(EARLY)
    np.testing.assert_array_equal(mean, exits.mean_of_exits(model(EARLY)[: last + 1]))
  with pytest.raises(ValueError, match="exit=mean:3: expected 0 to 2"):
    exits.select_exit(model, "mean:3")(EARLY)


@pytest.mark.parametrize("exit", [0, -1, "last", "mean"])
def test_of_a_single_exit_every_choice_is_that_exit(exit):
  np.testing.assert_array_equal(exits.select_exit(lambda x: x, exit)(EARLY), EARLY)


@pytest.mark.parametrize("exit", ["first", 1.0, True, None, "mean:", "mean:-1", "mean:a"])
def test_a_choice_that_is_none_is_refused(exit):
  unchecked = inspect.unwrap(exits.select_exit)  # the suite's check of types would come first
  with pytest.raises(ValueError, match=f"exit={exit!r}: expected a number, 'last' or 'mean'"):
    unchecked(model, exit)


@pytest.mark.parametrize(("logits_fn", "exit", "last"), [(model, 3, 2), (model, -4, 2),
                                                         (lambda x: x, 1, 0)])  # fmt: skip
def test_an_exit_that_the_model_lacks_is_refused(logits_fn, exit, last):
  with pytest.raises(ValueError, match=f"exit={exit}: expected 0 to {last}"):
    exits.select_exit(logits_fn, exit)(EARLY)


@pytest.mark.parametrize("exit", [0, "last", "mean"])
def test_selected_exit_keeps_the_rng(exit):
  def noisy(x, rng):
    return model(x + jax.random.normal(rng, x.shape))

  chosen, key = exits.select_exit(noisy, exit), jax.random.key(3)
  assert takes_rng(chosen) and not takes_rng(exits.select_exit(model, exit))
  expected = exits.select_exit(lambda x: noisy(x, key), exit)(EARLY)
  np.testing.assert_array_equal(chosen(EARLY, key), expected)
  rows = keyed(chosen)(EARLY, jax.random.split(key, 3))
  assert rows.shape == (3, 4) and not np.array_equal(rows[0], rows[1])


def test_jitted_and_partial_models_may_be_selected_from():
  scaled = functools.partial(lambda scale, x: (x, scale * x), 2.0)
  for logits_fn in (jax.jit(model), scaled):
    assert exits.select_exit(logits_fn, 0)(EARLY).shape == EARLY.shape
    assert not takes_rng(exits.select_exit(logits_fn, 0))
