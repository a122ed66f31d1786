"""Sound noise: an exact distribution on a grid, whatever float32 does."""

import bisect
import decimal
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import voters
from hypothesis import strategies as st
from scipy import special, stats

from jax_robust import smoothing
from jax_robust.smoothing import sound

SIGMAS = (0.12, 0.25, 0.5, 1.0)
LARGEST = 6.0
TOP = 2**63

invert = jax.jit(sound.invert)


def sizes_of(sigma, numbers, steps=255):
  """What the device makes of numbers of 63 bits; padded, so that there are few shapes."""
  numbers = [int(each) for each in numbers]
  padded = numbers + [0] * (-len(numbers) % 8192)
  high = np.array([each >> 32 for each in padded], np.uint32)
  low = np.array([each & 0xFFFFFFFF for each in padded], np.uint32)
  return np.asarray(invert(sound.law_table(sigma, steps), high, low))[: len(numbers)]


def sizes_by_hand(sigma, numbers, steps=255):
  """The same, in Python's integers."""
  rising = sorted(sound.thresholds(sigma, steps))
  return [len(rising) - bisect.bisect_right(rising, int(each)) for each in numbers]


@pytest.mark.parametrize("sigma", [*SIGMAS, LARGEST])
def test_draws_are_the_inverse_of_the_table(sigma):
  """At every threshold and beside it, where float32 alone cannot tell; and all over the range."""
  found = sound.thresholds(sigma, 255)[:: 10 if sigma == LARGEST else 1]
  numbers = {each + shift for each in found for shift in (-1, 0, 1)} | {0, 1, TOP - 1}
  rng = np.random.default_rng(0)
  numbers |= {int(2.0**bits) for bits in rng.uniform(0, 63, 4000)}
  numbers |= set(map(int, rng.integers(0, TOP, 4000)))
  numbers = sorted(each for each in numbers if 0 <= each < TOP)
  np.testing.assert_array_equal(sizes_of(sigma, numbers), sizes_by_hand(sigma, numbers))


@hypothesis.given(st.lists(st.integers(0, TOP - 1), min_size=1), st.sampled_from(SIGMAS))
def test_draws_are_the_inverse_of_the_table_for_any_bits(numbers, sigma):
  np.testing.assert_array_equal(sizes_of(sigma, numbers), sizes_by_hand(sigma, numbers))


def test_the_guess_is_off_by_less_than_it_may():
  """What the correction relies on, with room: a fifth of a step, at the largest sigma."""
  tail = np.exp2(-np.linspace(0, 63, 200_000))
  v = np.sqrt(-np.log(tail))
  y = v * np.polyval(sound._P[::-1], v) / np.polyval(sound._Q[::-1], v)
  error = np.abs(y - special.erfcinv(tail)).max() * np.sqrt(2) * sound._LARGEST_SIGMA
  assert error < 0.2


@pytest.mark.parametrize("sigma", SIGMAS)
def test_table_is_exact(sigma):
  """Against SciPy, whose relative error is below 1e-13, and the last entry is the last above 0."""
  found = np.array(sound.thresholds(sigma, 255), float) / TOP
  j = np.arange(1, len(found) + 1)
  exact = special.erfc((j - 0.5) / (sigma * 255 * math.sqrt(2)))
  np.testing.assert_allclose(found, exact, rtol=1e-13, atol=2.0**-64)
  assert (
    exact[-1] >= 2.0**-64 and special.erfc((len(found) + 0.5) / (sigma * 255 * 2**0.5)) < 2**-63
  )
  table = sound.law_table(sigma, 255)
  rows = table.entries.astype(object)
  assert [row[0] << 32 | row[1] for row in rows[1:]] == [row[2] << 32 | row[3] for row in rows[:-1]]
  assert tuple(row[2] << 32 | row[3] for row in rows)[: len(found)] == sound.thresholds(sigma, 255)
  assert not table.entries[len(found) + 1 :].any() and rows[0][0] == 2**31


def test_table_is_exact_to_63_bits():
  """erfc(x) by continued fraction in 60 decimal digits, where SciPy has 13."""
  with decimal.localcontext() as context:
    context.prec = 60
    root_of_pi = decimal.Decimal(sound._root_of_pi()) / 2**256
    assert str(root_of_pi**2).startswith("3.14159265358979323846264338327950288419716939937510")
    found = sound.thresholds(0.5, 255)
    for j in (300, 500, 800, 1100):
      x = (decimal.Decimal(2 * j - 1) / 2) / (decimal.Decimal("127.5") * decimal.Decimal(2).sqrt())
      fraction = x
      for n in range(1500, 0, -1):
        fraction = x + decimal.Decimal(n) / 2 / fraction
      exact = (-x * x).exp() / root_of_pi / fraction
      assert int((exact * TOP).to_integral_value()) == found[j - 1]


def test_distribution_is_that_of_rounded_normals():
  """Chi-squared, on 200,000 pixels: sizes, signs, and no dependence between neighbours."""
  sigma, middle = 0.02, 100
  image = jnp.full((2000,), middle / 255, jnp.float32)
  noisy = np.asarray(jax.jit(sound.SOUND.draw)(sound.law_table(sigma, 255), voters.KEY, image))
  assert noisy.dtype == np.float32 and noisy.shape == (100, 2000)
  integers = np.rint(noisy * 255).astype(int)
  np.testing.assert_array_equal(noisy, integers.astype(np.float32) * np.float32(1 / 255))
  steps = np.clip(integers - middle, -19, 19)
  edges = (np.arange(-19, 19) + 0.5) / (sigma * 255)
  expected = np.diff(special.ndtr(np.concatenate([[-np.inf], edges, [np.inf]])))
  counts = np.bincount(steps.ravel() + 19, minlength=39)
  assert stats.chisquare(counts, expected * steps.size).pvalue > 1e-3
  flat = (integers - middle).ravel()
  assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 0.01


def test_total_variation_is_more_than_the_sum_of_the_tables_errors():
  """Half the sum over all steps of |p - p'|, for one pixel, from entries of 63 bits."""
  for sigma in (0.002, 0.02, 0.25):
    found = sound.thresholds(sigma, 255)
    exact = [sound._erfc_of_root(*_square(j, sigma)) for j in range(1, 2 * len(found) + 3)]
    errors = [(each << 193) - wanted for each, wanted in zip([*found] + [0] * 10**4, exact)]  # noqa: B905
    per_size = np.diff(np.array([0, *errors, 0], object))
    distance = float(sum(map(abs, per_size)) / 2) / 2.0**256
    assert 0 < distance <= sound.SOUND.total_variation(sigma, 1) < 1e-15
  assert sound.SOUND.total_variation(1.0, 3 * 224 * 224) < 5e-11


def _square(j, sigma):
  """((j - 1/2) / (sigma * 255 * sqrt(2)))^2 as a fraction."""
  numerator, denominator = float(sigma).as_integer_ratio()
  return (2 * j - 1) ** 2 * denominator**2, 8 * (numerator * 255) ** 2


def grid(num=6):
  """Images of 8 bits."""
  return np.rint(voters.images(num) * 255).astype(np.float32) / 255


def test_sound_certificates_are_replayed_and_independent_of_the_batch():
  options = {"sigma": 0.2, "n": 1000, "noise": "sound"}
  whole = smoothing.certify_images(voters.linear, grid(), voters.KEY, **options)
  some = smoothing.certify_images(
    voters.linear, grid()[2:4], voters.KEY, ids=np.array([2, 3]), batch_size=300, **options
  )
  np.testing.assert_array_equal(some.count, whole.count[2:4])
  plain = smoothing.certify_images(voters.linear, grid(), voters.KEY, sigma=0.2, n=1000)
  assert np.abs(plain.lower_bound - whole.lower_bound).max() < 0.1
  assert (plain.label == whole.label).sum() >= 5
  distance = sound.SOUND.total_variation(0.2, 16)
  exact = smoothing.lower_bound(whole.count, 1000, alpha=0.001)
  np.testing.assert_array_equal(whole.lower_bound, exact - distance)
  found = smoothing.predict_images(voters.linear, grid(), voters.KEY, **options)
  assert (found.label == whole.label)[whole.label >= 0].all()


def test_the_classifier_sees_grid_points_only():
  seen = []

  def look(x):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
    return voters.linear(x)

  smoothing.certify_images(look, grid(1), voters.KEY, sigma=0.2, n=100, noise="sound")
  integers = np.concatenate(seen) * np.float32(255)
  assert np.abs(integers - np.rint(integers)).max() < 1e-3 and integers.min() < 0


def test_other_grids():
  noise = sound.make_sound(levels=2)
  noise.check(np.array([[0.0, 1.0]]))
  with pytest.raises(ValueError, match=r"x\[0, 1\]=0.5: expected a multiple of 1/1"):
    noise.check(np.array([[0.0, 0.5]]))
  noisy = noise.draw(noise.parameters(3.0), voters.KEY, jnp.zeros((5,)))
  np.testing.assert_array_equal(noisy, np.rint(noisy))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: sound.SOUND.check(voters.images(1)), "expected a multiple of 1/255"),
    (lambda: sound.SOUND.check(grid(1) + 2), "leave"),
    (lambda: sound.make_sound(levels=1), "levels=1"),
    (lambda: sound.thresholds(0.0, 255), "sigma=0.0"),
    (lambda: sound.thresholds(20.0, 255), "sigma=20.0: expected at most 15.7 in sound mode"),
  ],
)
def test_errors_name_what_is_wrong(call, message):
  with pytest.raises(ValueError, match=message):
    call()
