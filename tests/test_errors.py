"""Near misses and checks of arguments: what each refuses, and what it says."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import errors


def test_a_near_miss_is_named_and_else_what_there_is():
  assert errors.near_miss("bata", ["beta", "attack"]) == ": did you mean 'beta'?"
  assert errors.near_miss("l7", ["sign", "adam"]) == ": expected one of 'adam', 'sign'"
  assert errors.near_miss(3, ["sign", "adam"]) == ": expected one of 'adam', 'sign'"


def test_a_path_nearby_is_named(tmp_path):
  (tmp_path / "config.json").touch()
  assert "config.json'?" in errors.near_path(tmp_path / "confg.json")
  assert errors.near_path(tmp_path / "zzz") == errors.near_path(tmp_path / "none" / "a") == ""


def test_names_and_options():
  errors.check_name("norm", "l2", ("linf", "l2"))
  with pytest.raises(ValueError, match="norm='lnf': did you mean 'linf'"):
    errors.check_name("norm", "lnf", ("linf", "l2"))
  errors.check_options("attack", ["eps"], ["eps", "norm"])
  with pytest.raises(errors.ConfigError, match=r"unknown key 'attack\.epz': did you mean 'eps'"):
    errors.check_options("attack", ["epz"], ["eps", "norm"])


def test_every_error_of_a_user_is_a_user_error():
  kinds = (errors.ConfigError, errors.WorkdirError, errors.DataFileError)
  assert all(issubclass(kind, errors.UserError) for kind in kinds)


@pytest.mark.parametrize("sigma", [0.0, -0.5, float("nan"), float("inf")])
def test_no_noise_is_refused(sigma):
  with pytest.raises(ValueError, match=f"sigma={sigma}: expected .* above 0"):
    errors.check_sigma(sigma)


@pytest.mark.parametrize("value", [-1e-9, float("nan")])
def test_what_is_below_0_is_refused(value):
  with pytest.raises(ValueError, match=f"eta={value}: expected at least 0"):
    errors.check_not_negative(lbd=0.0, eta=value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_what_is_not_positive_is_refused(value):
  errors.check_positive(eps=1e-9)
  with pytest.raises(ValueError, match=f"eps={value}: expected a finite number above 0"):
    errors.check_positive(eps=value)


@pytest.mark.parametrize("value", [0, 2.5, -1, True, "3"])
def test_what_is_no_count_is_refused(value):
  errors.check_count(num_steps=np.int64(3), n=1.0)
  errors.check_count(0, num_steps=0)
  with pytest.raises(ValueError, match="num_steps=.*: expected a whole number, at least 1"):
    errors.check_count(num_noise_vec=1, num_steps=value)


@pytest.mark.parametrize("value", [0, 1, -0.1, float("nan")])
def test_what_is_no_probability_is_refused(value):
  errors.check_probability(alpha=0.5)
  with pytest.raises(ValueError, match=f"alpha={value}: expected a probability"):
    errors.check_probability(alpha=value)


IMAGES = np.full((3, 2, 2, 1), 0.5, np.float32)


def test_images_in_range_pass():
  errors.check_images(IMAGES)
  errors.check_images(jnp.asarray(IMAGES, jnp.bfloat16))


@pytest.mark.parametrize(
  ("images", "error", "message"),
  [
    (IMAGES.astype(np.uint8), TypeError, "dtype uint8: expected floating-point"),
    (IMAGES[:0], ValueError, r"shape \(0, 2, 2, 1\): expected images"),
    (IMAGES[0, 0, 0], ValueError, "expected images"),
    (IMAGES + np.reshape([0, 1, 0], (3, 1, 1, 1)), ValueError, "images 1 leave .*image 1 holds 1"),
    (IMAGES * np.reshape([1, 1, np.nan], (3, 1, 1, 1)), ValueError, "image 2 holds nan"),
  ],
)
def test_what_is_no_batch_of_images_is_refused(images, error, message):
  with pytest.raises(error, match=message):
    errors.check_images(images)


def test_labels_outside_the_classes_are_refused():
  errors.check_labels(np.array([0, 2]), 3)
  with pytest.raises(ValueError, match="labels 3, -1 of images 1, 2 are outside 0 to 2"):
    errors.check_labels(jnp.array([0, 3, -1]), 3)


def test_values_are_not_looked_at_under_jit():
  @jax.jit
  def traced(x, labels):
    errors.check_images(x)
    errors.check_labels(labels, 3)
    return x

  np.testing.assert_array_equal(traced(IMAGES + 9, np.array([7, 7, 7])), IMAGES + 9)


NO_NUMBERS = [None, "0.5", True, 1j, np.array([0.5, 0.5]), [0.5]]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
def test_what_is_no_number_is_refused_in_a_sentence(value):
  for check, expected in (
    (errors.check_positive, "expected a finite number above 0"),
    (errors.check_not_negative, "expected at least 0"),
    (errors.check_count, "expected a whole number, at least 1"),
    (errors.check_probability, "expected a probability"),
  ):
    with pytest.raises(ValueError, match=f"n=.*{expected}"):
      check(n=value)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_is_no_count(value):
  with pytest.raises(ValueError, match=f"n={value}: expected a whole number"):
    errors.check_count(n=value)


def test_traced_numbers_are_not_looked_at():
  def check(n):
    errors.check_positive(n=n)
    errors.check_not_negative(n=n)
    errors.check_probability(n=n)
    errors.check_one(n=n)
    return n

  assert jax.jit(check)(-1.0) == -1.0


@pytest.mark.parametrize("values", ["a", None, [1, None], [[1], [1, 2]], [1j], [True], {"a": 1}])
def test_what_are_no_numbers_is_refused(values):
  with pytest.raises(TypeError, match="costs=.*: expected numbers"):
    errors.as_numbers(values, "costs")


def test_numbers_of_every_kind_are_numbers():
  for values in (
    [0.5, 1],
    (fractions.Fraction(1, 2), 1),
    np.float16([0.5, 1]),
    jnp.array([0.5, 1]),
  ):
    found = errors.as_numbers(values, "costs")
    assert found.dtype == np.float64 and found.tolist() == [0.5, 1.0]


def test_one_radius_may_be_asked_for():
  errors.check_eps(np.float32(0.1), "linf", one=True)
  with pytest.raises(ValueError, match=r"eps has shape \(2,\): expected one radius"):
    errors.check_eps(np.full(2, 0.1), "linf", one=True)
