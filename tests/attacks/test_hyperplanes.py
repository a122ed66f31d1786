"""Moves onto hyperplanes against float64 solvers."""

import fab_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fab_reference import NORMS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize

from jax_robust.attacks import hyperplanes

ROWS, PIXELS = 3, 6
every_norm = pytest.mark.parametrize("norm", NORMS)

# Points often on the faces; weights with ties and zeros, which have no tiny ones among them.
unit = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32, allow_subnormal=False))
points = hnp.arrays(np.float32, (ROWS, PIXELS), elements=unit)
weights = st.integers(-16, 16).map(lambda n: n / 8)
normals = hnp.arrays(np.float32, (ROWS, PIXELS), elements=weights)
excess = st.floats(-6, 6, width=32, allow_subnormal=False)
excesses = hnp.arrays(np.float32, (ROWS,), elements=excess)
quick = settings(max_examples=150, deadline=None, derandomize=True)

MOVES = {norm: jax.jit(move) for norm, move in hyperplanes.MOVES.items()}


def shortest(z, w, excess, norm):
  """The least norm of a move onto the hyperplane, by a general solver."""
  n = len(z)
  if norm == "l2":
    result = optimize.minimize(
      lambda d: d @ d, fab_reference.move(z, w, excess, "linf"), jac=lambda d: 2 * d,
      bounds=list(zip(-z, 1 - z, strict=True)), method="SLSQP",
      constraints={"type": "eq", "fun": lambda d: w @ d + excess, "jac": lambda d: w},
      options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    assert result.success
    return np.sqrt(result.fun)
  if norm == "linf":  # least t with -t <= d_i <= t
    cost = np.append(np.zeros(n), 1.0)
    eye = np.eye(n)
    above = np.block([[eye, -np.ones((n, 1))], [-eye, -np.ones((n, 1))]])
    limits, equal = {"A_ub": above, "b_ub": np.zeros(2 * n)}, np.append(w, 0.0)
    bounds = [*zip(-z, 1 - z, strict=True), (0, None)]
  else:  # d = p - q
    cost, limits, equal = np.ones(2 * n), {}, np.append(w, -w)
    bounds = [*((0, 1 - each) for each in z), *((0, each) for each in z)]
  result = optimize.linprog(cost, A_eq=equal[None], b_eq=[-excess], bounds=bounds, **limits)
  assert result.status == 0
  return result.fun


@every_norm
@pytest.mark.parametrize("seed", range(5))
def test_reference_agrees_with_a_general_solver(norm, seed):
  draw = np.random.default_rng(seed)
  z, w = draw.random(5), draw.normal(size=5)
  reach = (np.abs(w) * np.where(w > 0, z, 1 - z)).sum()
  excess = draw.uniform(0.1, 0.9) * reach
  d = fab_reference.move(z, w, excess, norm)
  np.testing.assert_allclose(w @ d, -excess, rtol=1e-10)
  assert (z + d).min() >= -1e-12 and (z + d).max() <= 1 + 1e-12
  np.testing.assert_allclose(NORMS[norm](d), shortest(z, w, excess, norm), rtol=1e-6)


def assert_is_shortest(norm, z, w, excess):
  """Entry by entry where the minimiser is unique; l1 splits ties between pixels as it likes."""
  d = np.asarray(MOVES[norm](z, w, excess), np.float64)
  z, w, excess = (np.asarray(each, np.float64) for each in (z, w, excess))
  for i in range(len(z)):
    expected = fab_reference.move(z[i], w[i], excess[i], norm)
    np.testing.assert_allclose(NORMS[norm](d[i]), NORMS[norm](expected), atol=3e-5)
    np.testing.assert_allclose(w[i] @ d[i], w[i] @ expected, atol=4e-6)
    if norm != "l1":
      np.testing.assert_allclose(d[i], expected, atol=1e-5)


@quick
@given(points, normals, excesses)
def test_linf_move_is_shortest(z, w, excess):
  assert_is_shortest("linf", z, w, excess)


@quick
@given(points, normals, excesses)
def test_l2_move_is_shortest(z, w, excess):
  assert_is_shortest("l2", z, w, excess)


@quick
@given(points, normals, excesses)
def test_l1_move_is_shortest(z, w, excess):
  assert_is_shortest("l1", z, w, excess)


@every_norm
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.5, 0.99])
def test_move_lands_on_the_hyperplane_in_the_box(norm, share):
  z = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
  w = jax.random.normal(jax.random.key(1), z.shape) ** 3
  reach = jnp.sum(jnp.abs(w) * jnp.where(w > 0, z, 1 - z), axis=(1, 2, 3))
  d = np.asarray(MOVES[norm](z, w, share * reach), np.float64)
  landed = -(np.asarray(w, np.float64) * d).sum((1, 2, 3))
  np.testing.assert_allclose(landed, share * reach, rtol=3e-6)
  assert (z + d).min() >= -1e-7 and (z + d).max() <= 1 + 1e-7


@every_norm
def test_out_of_reach_goes_to_the_nearest_corner(norm):
  z, w = jnp.array([[0.5, 0.25, 0.75], [0.0, 0.5, 1.0]]), jnp.array([[1.0, -2.0, 0.0]] * 2)
  d = MOVES[norm](z, w, jnp.array([100.0, -100.0]))
  np.testing.assert_array_equal(d, [[-0.5, 0.75, 0.0], [1.0, -0.5, 0.0]])
  d = MOVES[norm](z, w, jnp.array([jnp.inf, 0.0]))
  np.testing.assert_array_equal(d, [[-0.5, 0.75, 0.0], [0.0, 0.0, 0.0]])


@every_norm
def test_scale_of_the_linearisation_changes_nothing(norm):
  """Gradients of 1e-20, as a saturated net gives, or of 1e20."""
  draw = np.random.default_rng(0)
  z, w = draw.random((4, 9), np.float32), draw.normal(size=(4, 9)).astype(np.float32)
  excess = draw.normal(size=4).astype(np.float32)
  expected = MOVES[norm](z, w, excess)
  assert np.all(np.abs(expected).max(1) > 0.01)
  for scale in (2.0**-66, 2.0**66):
    np.testing.assert_array_equal(MOVES[norm](z, w * scale, excess * scale), expected)


@every_norm
def test_nothing_to_gain_moves_nothing(norm):
  z = jnp.full((3, 2), 0.5)
  w = jnp.array([[0.0, 0.0], [1.0, 2.0], [1e-45, 0.0]])
  d = MOVES[norm](z, w, jnp.array([1.0, 0.0, 1.0]))
  np.testing.assert_array_equal(d[:2], jnp.zeros((2, 2)))
  assert np.all(np.isfinite(d))


@every_norm
def test_row_depends_on_nothing_but_itself(norm):
  """Rows that need more rounds than their neighbours do not change them."""
  draw = np.random.default_rng(0)
  z, w = draw.random((8, 40), np.float32), (draw.normal(size=(8, 40)) ** 5).astype(np.float32)
  excess = (draw.normal(size=8) * 10 ** draw.uniform(-4, 3, 8)).astype(np.float32)
  together = MOVES[norm](z, w, excess)
  for i in range(8):
    alone = MOVES[norm](z[i : i + 1], w[i : i + 1], excess[i : i + 1])
    np.testing.assert_array_equal(alone[0], together[i])


@every_norm
def test_float64_is_solved_in_float64(norm):
  with jax.enable_x64(True):
    draw = np.random.default_rng(0)
    z, w, excess = draw.random((4, 30)), draw.normal(size=(4, 30)), draw.normal(size=4)
    d = hyperplanes.MOVES[norm](jnp.asarray(z), jnp.asarray(w), jnp.asarray(excess))
    assert d.dtype == jnp.float64
    expected = [fab_reference.move(*row, norm) for row in zip(z, w, excess, strict=True)]
    np.testing.assert_allclose(d, expected, atol=1e-12)
