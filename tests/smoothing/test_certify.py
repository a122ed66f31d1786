"""CERTIFY and PREDICT on images: draws that can be replayed, however they were batched."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import voters
from voters import KEY

from jax_robust import smoothing
from jax_robust.nets.exits import select_exit

OPTIONS = {"sigma": 0.2, "n0": 110, "n": 1050, "alpha": 0.001}


@functools.cache
def sampler(batch_size=1000, logits_fn=voters.linear):
  return smoothing.Sampler(logits_fn, image_shape=voters.SHAPE, batch_size=batch_size)


def each(model=None, x=None, rng=KEY, **options):
  """The iterator of CERTIFY."""
  x = voters.images() if x is None else x
  return smoothing.each_certificate(model or sampler(), x, rng, **{**OPTIONS, **options})


def votes(model=None, x=None, **options):
  """Selection and estimation votes of the images, `[n, 2, k]`."""
  places, found, _ = zip(*each(model, x, **options), strict=True)
  assert list(places) == list(range(len(places))) and not np.any(np.array(found)[:, 2])
  return np.array(found)[:, :2]


def certify(model=None, rng=KEY, **options):
  options = {**OPTIONS, **options}
  return smoothing.certify_images(model or sampler(), voters.images(), rng, **options)


def test_counts_are_complete_and_bounds_are_those_of_certify():
  counted = votes()
  np.testing.assert_array_equal(counted.sum(-1), [[110, 1050]] * 6)
  found = certify()
  expected = smoothing.certify(counted[:, 0], counted[:, 1], sigma=0.2, alpha=0.001)
  for got, wanted in zip(found, expected, strict=True):
    np.testing.assert_array_equal(got, wanted)
  assert found.label.shape == (6,) and -1 in found.label and len(np.unique(found.radius)) > 2


@pytest.mark.parametrize("batch_size", [1, 300, 2000])
def test_independent_of_the_batch(batch_size):
  """Nor of the order of the images, of which of them there are, and of where a run starts."""
  np.testing.assert_array_equal(votes(sampler(batch_size)), votes())
  order = np.array([4, 0, 3])
  some = votes(sampler(batch_size), voters.images()[order], ids=order)
  np.testing.assert_array_equal(some, votes()[order])


@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_independent_of_the_devices(mode):
  for count in (8, 2) if mode == "jit" else (8,):
    many = smoothing.Sampler(
      voters.linear, image_shape=voters.SHAPE, devices=voters.over_devices(count, mode)
    )
    assert many.batch_size == {8: 1600, 2: 1000}[count]
    np.testing.assert_array_equal(votes(many), votes())


def test_any_row_can_be_replayed_alone():
  for place in (0, 5):
    alone = votes(x=voters.images()[place : place + 1], ids=np.array([place]))
    np.testing.assert_array_equal(alone[0], votes()[place])


def test_randomised_nets_are_replayed_too():
  whole = sampler(logits_fn=voters.noisy)
  alone = votes(whole, voters.images()[3:4], ids=np.array([3]))
  np.testing.assert_array_equal(alone[0], votes(whole)[3])
  np.testing.assert_array_equal(votes(sampler(300, voters.noisy)), votes(whole))
  assert not np.array_equal(votes(whole), votes())


def test_other_keys_and_ids_draw_other_noise():
  assert not np.array_equal(votes(rng=jax.random.key(1)), votes())
  twins = np.repeat(voters.images()[:1], 2, axis=0)
  first, second = votes(x=twins)
  assert not np.array_equal(first, second)


def test_fewer_draws_are_the_first_of_more():
  """Counted at n = 100, 200, ...: differences are the chunks' votes, none is negative."""
  counted = [votes(n=n, n0=100)[:, 1] for n in range(150, 1001, 50)]
  steps = np.diff(counted, axis=0)
  assert steps.min() >= 0 and np.all(steps.sum(-1) == 50)
  np.testing.assert_array_equal(votes()[:, 1] >= counted[-1], True)


def test_selection_does_not_change_with_n():
  fewer = votes(n=200)
  np.testing.assert_array_equal(fewer[:, 0], votes()[:, 0])


def test_one_program_for_all_sigmas_and_draws():
  traces = []

  def counted(x):
    traces.append(x.shape)
    return voters.linear(x)

  one = smoothing.Sampler(counted, image_shape=voters.SHAPE)
  radii = [certify(one).radius]
  before = len(traces)
  for sigma in (0.1, 0.4):
    radii.append(certify(one, rng=jax.random.key(2), sigma=sigma, n=700).radius)
  smoothing.certify_at(one, voters.images(), KEY, [0.1], sigma=0.3, n=200)
  smoothing.predict_images(one, voters.images(), KEY, sigma=0.3, n=200)
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

  devices = voters.over_devices(1)._replace(compile_fn=compile_fn)
  stream = each(smoothing.Sampler(voters.linear, image_shape=voters.SHAPE, devices=devices))
  next(stream)
  assert len(calls) < 6  # the first image is out while later ones are not requested yet
  rest = list(stream)
  assert len(rest) == 5 and len(calls) == 8
  idle = np.concatenate(calls)[78:]
  assert np.all(idle == 0) and np.concatenate(calls)[:78].min() > 0


def test_images_of_float64_and_of_jax_are_those_of_float32():
  for x in (voters.images().astype(np.float64), jnp.asarray(voters.images())):
    np.testing.assert_array_equal(votes(x=x), votes())


def test_prediction_is_that_of_the_counts():
  x = voters.images()
  options = {"sigma": 0.2, "n": 1050, "alpha": 0.001}
  counts = [found[2] for _, found, _ in smoothing.each_prediction(sampler(), x, KEY, **options)]
  np.testing.assert_array_equal(np.sum(counts, -1), 1050)
  assert not np.array_equal(counts, votes()[:, 1])  # other draws than CERTIFY's
  found = smoothing.predict_images(sampler(300), x, KEY, **options)
  for got, wanted in zip(found, smoothing.predict(np.array(counts), alpha=0.001), strict=True):
    np.testing.assert_array_equal(got, wanted)
  certified = certify().label
  np.testing.assert_array_equal(found.label[certified >= 0], certified[certified >= 0])


def two_exits(x, rng):
  """A randomised model of two exits, of which the first sees half of the image."""
  return voters.linear(x * (jnp.arange(4) < 2)[None, :, None, None]), voters.noisy(x, rng)


@pytest.mark.parametrize("exit", [0, "last", "mean"])
def test_an_exit_is_certified_as_a_model_of_its_own(exit):
  """The mean as the model whose logits are the sum of the exits' probabilities."""
  alone = {
    0: lambda x, rng: two_exits(x, rng)[0],
    "last": voters.noisy,
    "mean": lambda x, rng: sum(map(jax.nn.softmax, two_exits(x, rng))),
  }
  found = votes(sampler(logits_fn=select_exit(two_exits, exit)))
  np.testing.assert_array_equal(found, votes(sampler(logits_fn=alone[exit])))


def test_a_sampler_has_its_options_already():
  with pytest.raises(TypeError, match="batch_size: expected in the call of Sampler"):
    certify(batch_size=100)
  with pytest.raises(TypeError, match="batchsize"):
    certify(voters.linear, batchsize=100)


def plan_of(*totals):
  """A plan that wants these numbers of draws, one after the other."""

  def plan():
    for total in totals:
      yield {smoothing.ESTIMATION: total}

  return plan


@pytest.mark.parametrize(
  ("totals", "error"), [((150, 300), ValueError), ((100, 100), RuntimeError), ((0,), RuntimeError)]
)
def test_plans_that_cannot_be_followed_are_refused(totals, error):
  """More draws after part of a chunk, which would be drawn again; and no more draws."""
  with pytest.raises(error, match="whole chunks|has not returned"):
    list(sampler().run(voters.images(1), KEY, plan_of(*totals), sigma=0.1))


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
    ({"x": np.zeros((2, 3, 3, 1), np.float32), "model": sampler}, "expected images of shape"),
    ({"ids": np.array([1, 1])}, "ids: expected each id once"),
    ({"ids": np.array([1])}, "expected 2 integers"),
    ({"ids": np.array([0.5, 1.5])}, "expected 2 integers"),
    ({"ids": np.array([0, 2**32])}, "expected 0 to 2"),
    ({"ids": np.array([-1, 0])}, "ids from -1 to 0"),
  ],
)
def test_errors_name_what_is_wrong(changes, message):
  options = {"x": voters.images(2), "sigma": 0.2, "n": 100, **changes}
  model = options.pop("model", lambda: voters.linear)()
  with pytest.raises(ValueError, match=message):
    smoothing.certify_images(model, options.pop("x"), KEY, **options)


def test_integer_images_are_refused():
  with pytest.raises(TypeError, match="uint8"):
    smoothing.certify_images(voters.linear, np.zeros((1, *voters.SHAPE), np.uint8), KEY, sigma=0.2)


def test_prediction_with_too_few_draws_is_refused():
  with pytest.raises(ValueError, match="n=10: too few votes to predict"):
    smoothing.predict_images(voters.linear, voters.images(), KEY, sigma=0.2, n=10)


def test_an_iterator_may_be_left():
  first = [found[:2] for _, found, _ in itertools.islice(each(), 2)]
  np.testing.assert_array_equal(first, votes()[:2])
