"""AutoAugment and RandAugment: tables, laws, and results that Pillow can make."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import mostly_thorough
from scipy import stats
from test_image_ops import make_image, pillow_op

from jax_robust.data import image_ops, policies

SIZE = {"height": 16, "width": 16}
IMAGE = make_image((16, 16, 3), seed=1)


def _run(policy, image, num, seed=0):
  """`num` draws of a policy on one image."""
  keys = jax.random.split(jax.random.key(seed), num)
  return np.asarray(jax.jit(jax.vmap(policy, in_axes=(None, 0)))(image, keys))


def _sequences(pair):
  """All (probability, result) of a sub-policy, by Pillow: gates and signs enumerated."""
  for gates in itertools.product((False, True), repeat=2):
    for signs in itertools.product((-1, 1), repeat=2):
      image, chance = IMAGE, 0.25
      for (name, probability, strength), gate, sign in zip(pair, gates, signs, strict=True):
        chance *= probability if gate else 1 - probability
        if gate:
          image = pillow_op(name, image, policies.op_amount(name, strength, sign, **SIZE))
      yield chance, image


@pytest.mark.parametrize("name", mostly_thorough(policies.SUBPOLICIES, "autoaugment"))
def test_policy_applies_the_drawn_ops(name):
  """Every result is a sequence that the policy allows, and unchanged images come at their rate."""
  rows = policies._parse(policies.SUBPOLICIES[name])
  chances, images = zip(
    *(outcome for pair in zip(rows[::2], rows[1::2], strict=True) for outcome in _sequences(pair)),
    strict=True,
  )
  chances, images = np.array(chances) / 25, np.array(images).astype(int)
  assert np.isclose(chances.sum(), 1)
  results = _run(policies.make_policy(name), IMAGE, 1500)
  for result in results[:150]:
    distance = np.abs(images[chances > 0] - result.astype(int)).mean(axis=(1, 2, 3))
    assert distance.min() < 0.5  # a blend's last grey level, seen through equalize
  unchanged = chances[np.all(images == IMAGE, axis=(1, 2, 3))].sum()
  observed = np.sum(np.all(results == IMAGE, axis=(1, 2, 3)))
  assert 0.01 < unchanged < 0.5
  assert stats.binomtest(int(observed), len(results), unchanged).pvalue > 1e-4


@pytest.mark.parametrize("name", policies.SUBPOLICIES)
def test_subpolicies_are_the_published_ones(name):
  rows = policies._parse(policies.SUBPOLICIES[name])
  assert len(rows) == 50
  assert all(op in policies._BRANCH for op, _, _ in rows)
  counts = {op: sum(row[0] == op for row in rows) for op in policies._BRANCH}
  probabilities = round(sum(probability for _, probability, _ in rows), 6)
  levels = round(9 * sum(strength for _, _, strength in rows))
  expected = {
    "autoaugment": ({"equalize": 9, "autocontrast": 7, "translate_y": 5, "shear_x": 0}, 26.5, 187),
    "autoaugment_svhn": ({"invert": 12, "shear_y": 8, "shear_x": 6, "color": 0}, 32.9, 143),
  }[name]
  assert {op: counts[op] for op in expected[0]} == expected[0]
  assert (probabilities, levels) == expected[1:]


def test_randaugment_draws_its_ops_uniformly():
  """One operation per image: 14 operations and fair signs, results told apart by their bytes."""
  ops = [(op, sign) for op in policies.RANDAUGMENT_OPS for sign in (-1, 1)]
  amounts = [policies.op_amount(op, 0.5, sign, **SIZE) for op, sign in ops]
  matrices = [
    image_ops.fixed_point(policies.op_matrix(op, amount, **SIZE))
    for (op, _), amount in zip(ops, amounts, strict=True)
  ]
  apply = jax.jit(jax.vmap(partial(policies.apply_op, fill=0), in_axes=(None, 0, 0, 0)))
  branches = jnp.array([policies._BRANCH[op] for op, _ in ops])
  single = apply(IMAGE, branches, jnp.array(amounts, jnp.float32), jnp.array(matrices))
  expected = {}
  for result in np.asarray(single):
    expected[result.tobytes()] = expected.get(result.tobytes(), 0) + 1 / 28
  results = _run(policies.make_policy("randaugment", num_ops=1, magnitude=15, fill=0), IMAGE, 2800)
  observed = dict.fromkeys(expected, 0)
  for result in results:
    observed[result.tobytes()] += 1
  assert len(expected) > 20
  shares = np.array([expected[key] for key in expected])
  counts = np.array([observed[key] for key in expected])
  assert stats.chisquare(counts, shares * len(results)).pvalue > 1e-4


def test_randaugment_at_magnitude_0_changes_little():
  """At strength 0 only the two operations without a magnitude change anything."""
  results = _run(policies.make_policy("randaugment", num_ops=3, magnitude=0), IMAGE, 300)
  changed = np.mean(np.any(results != IMAGE, axis=(1, 2, 3)))
  assert abs(changed - (1 - (12 / 14) ** 3)) < 0.1


def test_policy_works_on_grey_images():
  image = make_image((28, 28, 1))
  policy = policies.make_policy("autoaugment_svhn")
  results = _run(policy, image, 8)
  assert results.shape == (8, 28, 28, 1) and results.dtype == np.uint8
  assert len({result.tobytes() for result in results}) > 4


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("autoaugmnt", {}, "policy='autoaugmnt'.*did you mean 'autoaugment'"),
    ("randaugment", {"magnitude": 31}, "magnitude=31: expected 0 to 30"),
    ("randaugment", {"num_ops": 0}, "num_ops=0: expected a whole number, at least 1"),
    ("randaugment", {"fill": 256}, "fill=256"),
  ],
)
def test_policy_errors_name_the_argument(name, arguments, message):
  with pytest.raises(ValueError, match=message):
    policies.make_policy(name, **arguments)


def test_policy_refuses_images_it_would_misread():
  policy = policies.make_policy("autoaugment")
  for image in (jnp.zeros((8, 8, 3)), jnp.zeros((8, 8, 4), jnp.uint8)):
    with pytest.raises(ValueError, match="expects uint8"):
      policy(image, jax.random.key(0))
