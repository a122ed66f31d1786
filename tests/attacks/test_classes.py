"""Which outputs count as wrong, and which wrong classes are tried."""

import jax.numpy as jnp
import pytest

from jax_robust import losses
from jax_robust.attacks.classes import likeliest_wrong, misclassified

pytestmark = pytest.mark.fast


def test_misclassified():
  logits = jnp.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [1.0, jnp.nan], [-jnp.inf, 0.0]])
  expected = [True, False, False, False, True]
  assert misclassified(logits, jnp.zeros(5, jnp.int32)).tolist() == expected


def test_the_last_exit_says_what_is_misclassified_and_likely():
  right, wrong = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([[1.0, 2.0, 3.0]])
  assert not misclassified((wrong, right), jnp.array([0])).any()
  assert misclassified((right, wrong), jnp.array([0])).all()
  assert likeliest_wrong((right, wrong), jnp.array([0]), 9).tolist() == [[2], [1]]


def test_labels_of_probabilities():
  assert losses.as_labels(jnp.array([[0.1, 0.9], [0.7, 0.3]])).tolist() == [1, 0]
  assert losses.as_labels(jnp.array([3, 1])).tolist() == [3, 1]


def test_likeliest_wrong_classes_skip_the_label_and_put_nan_last():
  logits = jnp.array([[3.0, 1.0, 2.0, 0.0], [0.0, jnp.nan, 2.0, 1.0]])
  labels = jnp.array([0, 3])
  assert likeliest_wrong(logits, labels, 2).tolist() == [[2, 2], [1, 0]]
  assert likeliest_wrong(logits, labels, 9).tolist() == [[2, 2], [1, 0], [3, 1]]
  with pytest.raises(ValueError, match="num_targets=0: expected a whole number"):
    likeliest_wrong(logits, labels, 0)
