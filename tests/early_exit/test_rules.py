"""The deployed rule: which exit answers, and what is no threshold of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust.early_exit import answer, check_thresholds, early_exit, exit_taken

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
OUTPUTS = tuple(jnp.asarray(DRAW.normal(scale=2, size=(50, 4)), jnp.float32) for _ in range(3))


def reference(thresholds):
  """Exit and logits of each image, one after the other."""
  taken = []
  for row in range(50):
    probs = [np.exp(np.asarray(z[row], np.float64)) for z in OUTPUTS]
    sure = [(p / p.sum()).max() >= t for p, t in zip(probs, (*thresholds, 0.0), strict=True)]
    taken.append(sure.index(True))
  return taken, [OUTPUTS[k][row] for row, k in enumerate(taken)]


@pytest.mark.parametrize("thresholds", [(0.6, 0.7), (0.0, 0.5), (1.1, 0.5), (1.1, 1.1)])
def test_the_first_exit_that_is_confident_enough_answers(thresholds):
  taken, logits = reference(thresholds)
  found_logits, found = answer(OUTPUTS, thresholds)
  assert found.tolist() == taken
  assert_close(found_logits, np.stack(logits))
  assert_close(early_exit(lambda x: OUTPUTS, thresholds)(jnp.zeros((50, 1))), np.stack(logits))


def test_last_exit_takes_the_rest():
  first = jnp.array([[jnp.nan, 0.0], [9.0, 0.0]])
  assert exit_taken((first, jnp.zeros((2, 2))), [0.5]).tolist() == [1, 0]


def test_the_gradient_is_that_of_the_exit_taken():
  net = early_exit(lambda x: (3 * x, 7 * x), [0.9])
  slopes = jax.grad(lambda x: net(x)[:, 0].sum())(jnp.array([[1.0, 0.0], [0.1, 0.0]]))
  assert slopes[:, 0].tolist() == [3.0, 7.0]


def test_a_randomised_net_keeps_its_rng():
  net = early_exit(lambda x, rng: (x, x + jax.random.normal(rng, x.shape)), [1.1])
  x, key = jnp.ones((2, 3)), jax.random.key(0)
  assert_close(net(x, key), x + jax.random.normal(key, x.shape))


@pytest.mark.parametrize(
  ("thresholds", "said"),
  [
    ((0.5,), "has 1 entries, and the net has 3 exits: expected 2"),
    ((0.5, 0.5, 0.5), "has 3 entries"),
    ((0.5, np.nan), "holds NaN"),
  ],
)
def test_what_is_no_threshold_of_the_model_is_refused(thresholds, said):
  with pytest.raises(ValueError, match=said):
    check_thresholds(thresholds, 3)
