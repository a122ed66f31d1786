"""CERTIFY and PREDICT on images: draws that can be replayed, however they were batched."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import voters

from jax_robust import smoothing

OPTIONS = {"sigma": 0.2, "n0": 110, "n": 1050, "alpha": 0.001}


@functools.cache
def certifier(batch_size=1000, logits_fn=voters.linear):
  return smoothing.make_certifier(
    logits_fn, image_shape=voters.SHAPE, batch_size=batch_size, **OPTIONS
  )


def votes(certify=None, x=None, **options):
  """Selection and estimation votes of the images, `[n, 2, k]`."""
  x = voters.images() if x is None else x
  found = list((certify or certifier()).each(x, voters.KEY, **options))
  assert [each.place for each in found] == list(range(len(x)))
  return np.array([[each.selection, each.estimation] for each in found])


def test_counts_are_complete_and_bounds_are_those_of_certify():
  counted = votes()
  np.testing.assert_array_equal(counted.sum(-1), [[110, 1050]] * 6)
  found = certifier()(voters.images(), voters.KEY)
  expected = smoothing.certify(counted[:, 0], counted[:, 1], sigma=0.2, alpha=0.001)
  for got, wanted in zip(found, expected, strict=True):
    np.testing.assert_array_equal(got, wanted)
  assert found.label.shape == (6,) and -1 in found.label and len(np.unique(found.radius)) > 2


@pytest.mark.parametrize("batch_size", [1, 300, 2000])
def test_independent_of_the_batch(batch_size):
  """Nor of the order of the images, of which of them there are, and of where a run starts."""
  np.testing.assert_array_equal(votes(certifier(batch_size)), votes())
  order = np.array([4, 0, 3])
  some = votes(certifier(batch_size), voters.images()[order], ids=order)
  np.testing.assert_array_equal(some, votes()[order])


@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_independent_of_the_devices(mode):
  for count in (8, 2) if mode == "jit" else (8,):
    many = smoothing.make_certifier(
      voters.linear, image_shape=voters.SHAPE, devices=voters.over_devices(count, mode), **OPTIONS
    )
    assert many.sampler.batch_size == {8: 1600, 2: 1000}[count]
    np.testing.assert_array_equal(votes(many), votes())


def test_any_row_can_be_replayed_alone():
  for place in (0, 5):
    alone = votes(x=voters.images()[place : place + 1], ids=np.array([place]))
    np.testing.assert_array_equal(alone[0], votes()[place])


def test_randomised_nets_are_replayed_too():
  whole = certifier(logits_fn=voters.noisy)
  alone = votes(whole, voters.images()[3:4], ids=np.array([3]))
  np.testing.assert_array_equal(alone[0], votes(whole)[3])
  np.testing.assert_array_equal(votes(certifier(300, voters.noisy)), votes(whole))
  assert not np.array_equal(votes(whole), votes())


def test_other_keys_and_ids_draw_other_noise():
  other = [each.estimation for each in certifier().each(voters.images(), jax.random.key(1))]
  assert not np.array_equal(other, votes()[:, 1])
  twins = np.repeat(voters.images()[:1], 2, axis=0)
  first, second = votes(x=twins)
  assert not np.array_equal(first, second)


def test_fewer_draws_are_the_first_of_more():
  """Counted at n = 100, 200, ...: differences are the chunks' votes, none is negative."""
  counted = [
    votes(dataclasses.replace(certifier(), n=n, n0=100))[:, 1] for n in range(150, 1001, 50)
  ]
  steps = np.diff(counted, axis=0)
  assert steps.min() >= 0 and np.all(steps.sum(-1) == 50)
  np.testing.assert_array_equal(votes()[:, 1] >= counted[-1], True)


def test_selection_does_not_change_with_n():
  fewer = votes(dataclasses.replace(certifier(), n=200))
  np.testing.assert_array_equal(fewer[:, 0], votes()[:, 0])


def test_one_program_for_all_sigmas_and_draws():
  traces = []

  def counted(x):
    traces.append(x.shape)
    return voters.linear(x)

  certify = smoothing.make_certifier(counted, image_shape=voters.SHAPE, **OPTIONS)
  radii = [certify(voters.images(), voters.KEY).radius]
  before = len(traces)
  for sigma in (0.1, 0.4):
    other = dataclasses.replace(certify, sigma=sigma, n=700)
    radii.append(other(voters.images(), jax.random.key(2)).radius)
  assert len(traces) == before
  assert max(map(np.max, radii)) > 0 and not np.array_equal(radii[1], radii[2])


def test_batches_are_full_across_images():
  """Six images of 2 + 11 chunks are 78 rows: eight batches of ten."""
  calls = []

  def compile_fn(fn):
    compiled = jax.jit(fn)

    def call(shared, rows):
      calls.append(rows.num_draws)
      return compiled(shared, rows)

    return call

  many = smoothing.make_certifier(
    voters.linear, image_shape=voters.SHAPE,
    devices=voters.over_devices(1)._replace(compile_fn=compile_fn), **OPTIONS,
  )  # fmt: skip
  stream = many.each(voters.images(), voters.KEY)
  next(stream)
  assert len(calls) < 6  # the first image is out while later ones have not been asked for
  rest = list(stream)
  assert len(rest) == 5 and len(calls) == 8
  idle = np.concatenate(calls)[78:]
  assert np.all(idle == 0) and np.concatenate(calls)[:78].min() > 0


def test_images_of_float64_and_of_jax_are_those_of_float32():
  for x in (voters.images().astype(np.float64), jnp.asarray(voters.images())):
    np.testing.assert_array_equal(votes(x=x), votes())


def test_prediction_is_that_of_the_counts():
  x = voters.images()
  predictor = smoothing.make_predictor(
    voters.linear, image_shape=voters.SHAPE, sigma=0.2, n=1050, alpha=0.001
  )
  counts = np.array([counts for _, counts in predictor.each(x, voters.KEY)])
  np.testing.assert_array_equal(counts.sum(-1), 1050)
  assert not np.array_equal(counts, votes()[:, 1])  # other draws than CERTIFY's
  found = smoothing.predict_images(voters.linear, x, voters.KEY, sigma=0.2, n=1050, batch_size=300)
  for got, wanted in zip(found, smoothing.predict(counts, alpha=0.001), strict=True):
    np.testing.assert_array_equal(got, wanted)
  certified = certifier()(x, voters.KEY).label
  np.testing.assert_array_equal(found.label[certified >= 0], certified[certified >= 0])


BAD_IMAGES = [np.full((1, *voters.SHAPE), value, np.float32) for value in (1.5, -0.01, np.nan)]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    *[({"x": x}, "leave .0, 1. or are not finite") for x in BAD_IMAGES],
    ({"x": np.zeros((0, *voters.SHAPE), np.float32)}, "expected images"),
    ({"sigma": 0.0}, "sigma=0.0"),
    ({"sigma": -0.25}, "sigma=-0.25"),
    ({"alpha": 0.0}, "alpha=0.0"),
    ({"alpha": 1.5}, "alpha=1.5"),
    ({"n": 0}, "n=0"),
    ({"n": -5}, "n=-5"),
    ({"n0": 0}, "n0=0"),
    ({"n0": 101, "n": 100}, "n0=101: expected at most n=100"),
    ({"n": 9, "n0": 5}, "n=9: too few votes"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"noise": "uniform"}, "noise='uniform': expected one of 'gaussian'"),
    ({"ids": np.array([1, 1])}, "ids: expected each id once"),
    ({"ids": np.array([1])}, "expected 2 integers"),
    ({"ids": np.array([0.5, 1.5])}, "expected 2 integers"),
    ({"ids": np.array([0, 2**32])}, "expected 0 to 2"),
    ({"ids": np.array([-1, 0])}, "ids from -1 to 0"),
  ],
)
def test_errors_name_what_is_wrong(changes, message):
  options = {"x": voters.images(2), "sigma": 0.2, "n": 100, **changes}
  with pytest.raises(ValueError, match=message):
    smoothing.certify_images(voters.linear, options.pop("x"), voters.KEY, **options)


def test_integer_images_are_refused():
  with pytest.raises(TypeError, match="uint8"):
    smoothing.certify_images(
      voters.linear, np.zeros((1, *voters.SHAPE), np.uint8), voters.KEY, sigma=0.2
    )


def test_prediction_with_too_few_draws_is_refused():
  with pytest.raises(ValueError, match="n=10: too few votes to predict"):
    smoothing.predict_images(voters.linear, voters.images(), voters.KEY, sigma=0.2, n=10)


def test_an_iterator_may_be_left():
  first = list(itertools.islice(certifier().each(voters.images(), voters.KEY), 2))
  np.testing.assert_array_equal([each.estimation for each in first], votes()[:2, 1])
