"""What a chunk of draws is, and who it votes for."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import voters
from scipy import stats

from jax_robust import smoothing
from jax_robust.nets.constants import lift
from jax_robust.nets.randomised import keyed
from jax_robust.smoothing import noise

IMAGE = jax.ShapeDtypeStruct((1, *voters.SHAPE), np.float32)


def rows_of(x, chunks=None, num_draws=100):
  """Rows of the estimation, one for each image, with ids 7, 8, ...."""
  count = len(x)
  chunks = np.zeros(count) if chunks is None else chunks
  return noise.Rows(
    x,
    np.arange(7, 7 + count, dtype=np.uint32),
    np.full(count, noise.ESTIMATION, np.uint32),
    np.asarray(chunks).astype(np.uint32),
    np.full(count, num_draws, np.int32),
  )


def votes_of(logits_fn, rows, sigma=0.2):
  """Counts of a batch."""
  net = lift(keyed(logits_fn), IMAGE, jax.random.split(voters.KEY, 1))
  votes = jax.jit(noise.make_votes(net))
  return np.asarray(votes((net.constants, np.float32(sigma), voters.KEY), rows))


def draws_by_hand(x, place, stage, chunk, sigma):
  """The noisy copies of an image and the keys of their passes, as defined."""
  key = voters.KEY
  for number in (7 + place, stage, chunk):
    key = jax.random.fold_in(key, number)
  noise_key, net_key = jax.random.split(key)
  normal = jax.random.normal(noise_key, (100, *x.shape[1:]))
  return x[place][None] + np.float32(sigma) * normal, jax.random.split(net_key, 100)


def test_votes_are_those_of_single_passes():
  x = voters.images(2)
  counts = votes_of(voters.linear, rows_of(x, chunks=[3, 0], num_draws=37))
  for place, chunk in ((0, 3), (1, 0)):
    copies, _ = draws_by_hand(x, place, noise.ESTIMATION, chunk, 0.2)
    winners = np.argmax(voters.linear(copies[:37]), axis=1)
    np.testing.assert_array_equal(counts[place], np.bincount(winners, minlength=5))
  assert counts.dtype == np.int32 and (counts > 0).sum() > 3


def test_randomised_nets_get_a_key_for_every_draw():
  x = voters.images(1)
  counts = votes_of(voters.noisy, rows_of(x))
  copies, keys = draws_by_hand(x, 0, noise.ESTIMATION, 0, 0.2)
  logits = jax.vmap(lambda image, key: voters.noisy(image[None], key)[0])(copies, keys)
  np.testing.assert_array_equal(counts[0], np.bincount(np.argmax(logits, 1), minlength=5))


def test_draws_depend_on_the_chunk_only():
  x = voters.images(4)
  rows = rows_of(x, chunks=[0, 1, 2, 3])
  whole = votes_of(voters.linear, rows)
  turned = votes_of(voters.linear, jax.tree.map(lambda leaf: leaf[::-1], rows))
  np.testing.assert_array_equal(turned[::-1], whole)
  one = votes_of(voters.linear, jax.tree.map(lambda leaf: leaf[2:3], rows))
  np.testing.assert_array_equal(one[0], whole[2])


def test_idle_rows_vote_for_no_class():
  assert votes_of(voters.linear, rows_of(voters.images(2), num_draws=0)).sum() == 0


def test_images_stages_and_chunks_have_keys_of_their_own():
  grid = np.array(list(itertools.product(range(12), range(3), range(12))), np.uint32).T
  keys = noise.chunk_keys(voters.KEY, *grid)
  assert len(np.unique(jax.random.key_data(keys), axis=0)) == grid.shape[1]
  assert len({noise.SELECTION, noise.ESTIMATION, noise.PREDICTION}) == 3


def test_noise_is_float32_and_normal():
  """A distribution with bfloat16's 128 values, or without tails, would fail here."""
  copies = jax.jit(noise.GAUSSIAN.draw)(np.float32(0.5), voters.KEY, jnp.zeros((2000,)))
  assert copies.dtype == jnp.float32
  sample = np.asarray(copies, np.float64).ravel() / 0.5
  assert stats.kstest(sample, "norm").pvalue > 1e-3
  assert len(np.unique(sample)) > 150_000 and 4.2 < np.abs(sample).max() < 6
  assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 0.01


def test_matrix_products_have_full_precision():
  net = lift(keyed(voters.linear), IMAGE, jax.random.split(voters.KEY, 1))
  shared = net.constants, np.float32(0.2), voters.KEY
  text = str(jax.make_jaxpr(noise.make_votes(net))(shared, rows_of(voters.images(2))))
  assert "Precision.HIGHEST" in text


def test_ties_go_to_the_lowest_class():
  tied = lambda x: jnp.zeros((x.shape[0], 1)) + jnp.array([[0.0, 1.0, 1.0]])  # noqa: E731
  assert votes_of(tied, rows_of(voters.images(1))).tolist() == [[0, 100, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_vote_for_no_class(bad):
  broken = lambda x: jnp.where(jnp.arange(3) == 1, bad, jnp.zeros((x.shape[0], 3)))  # noqa: E731
  assert votes_of(broken, rows_of(voters.images(1))).sum() == 0
  with pytest.raises(ValueError, match="NaN or infinite for noisy copies of image 5"):
    smoothing.certify_images(
      broken, voters.images(1), voters.KEY, sigma=0.1, n=100, ids=np.array([5])
    )


@pytest.mark.parametrize(
  ("logits_fn", "message"),
  [
    (lambda x: (voters.linear(x), voters.linear(x)), "2 exits: randomized smoothing .*select_exit"),
    (lambda x: (voters.linear(x), x), "all of one shape"),
    (lambda x: {"logits": voters.linear(x)}, "a dict: expected logits"),
    (lambda x: voters.linear(x)[:, 0], r"shape \(1,\)"),
    (lambda x: voters.linear(x)[:, :1], r"shape \(1, 1\)"),
  ],
)
def test_nets_without_a_class_are_refused(logits_fn, message):
  with pytest.raises(ValueError, match=message):
    smoothing.Sampler(logits_fn, image_shape=voters.SHAPE)
