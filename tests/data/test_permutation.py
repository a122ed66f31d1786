"""The stateless permutation: exact, well mixed, the same on NumPy and JAX."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jax_robust.data.permutation import draw, locate, permute

seeds = st.integers(0, 2**64 - 1) | st.tuples(st.integers(0, 2**40), st.integers(0, 9))


@given(st.integers(1, 5000), seeds, st.integers(0, 2**32 - 1))
def test_exact(num, seed, epoch):
  order = permute(np.arange(num), num, seed=seed, epoch=epoch)
  np.testing.assert_array_equal(np.sort(order), np.arange(num))


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 2**31 - 1), seeds, st.integers(0, 2**31 - 1), st.data())
def test_backends_agree(num, seed, epoch, data):
  some = data.draw(st.lists(st.integers(0, num - 1), min_size=9, max_size=9))
  positions = np.array(some).reshape(3, 3)
  expected = permute(positions, num, seed=seed, epoch=epoch)
  assert expected.dtype == np.int64 and expected.shape == (3, 3)
  assert expected.min() >= 0 and expected.max() < num
  device = jnp.asarray(positions, jnp.int32)
  np.testing.assert_array_equal(permute(device, num, seed=seed, epoch=epoch), expected)
  jitted = jax.jit(lambda p, e: permute(p, num, seed=seed, epoch=e))
  np.testing.assert_array_equal(jitted(device, jnp.uint32(epoch)), expected)


@pytest.mark.parametrize("num", [5, 6])
def test_all_orders_equally_likely(num):
  # 100 draws of each order expected; fails by chance once in 10,000 seeds, and this one is fixed.
  epochs = 100 * math.factorial(num)
  positions = np.broadcast_to(np.arange(num), (epochs, num))
  epoch = np.broadcast_to(np.arange(epochs)[:, None], (epochs, num))
  seen = collections.Counter(map(tuple, permute(positions, num, seed=3, epoch=epoch).tolist()))
  counts = [seen[order] for order in itertools.permutations(range(num))]
  assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("num", [3000, 50_000, 200_003])
def test_adjacent_positions_are_independent(num):
  order = permute(np.arange(num), num, seed=1)
  later = permute(np.arange(num), num, seed=1, epoch=1)
  pairs = [(order[:-lag], order[lag:]) for lag in (1, 2, 256)] + [(order, later)]
  for a, b in pairs:
    cells = np.bincount(a * 16 // num * 16 + b * 16 // num, minlength=256)
    gaps = np.bincount((b - a) % num * 64 // num, minlength=64)
    assert stats.chisquare(cells).pvalue > 1e-4
    assert stats.chisquare(gaps).pvalue > 1e-4


def test_pass_and_seed_change_the_order():
  num = 1000
  orders = {
    (seed, epoch): permute(np.arange(num), num, seed=seed, epoch=epoch)
    for seed in (0, 1, 2**32, (0, 0), (0, 1), (1, 0))
    for epoch in (0, 1, 2, 2**31)
  }
  for a, b in itertools.combinations(orders, 2):
    # Two random orders agree in one place on average (Poisson).
    assert (orders[a] == orders[b]).sum() < 10, (a, b)


@given(st.integers(1, 60), st.integers(1, 90), st.integers(0, 40))
def test_draw_runs_through_passes(num, count, step):
  whole = draw(0, 0, count=count * (step + 1), num=num, seed=5)
  part = draw(*locate(step, count, num), count=count, num=num, seed=5)
  np.testing.assert_array_equal(part, whole[count * step :])
  for epoch in range(len(whole) // num):
    np.testing.assert_array_equal(np.sort(whole[epoch * num :][:num]), np.arange(num))


@pytest.mark.parametrize("step", [0, 1, 2**31 - 1, 2**31 + 5])
def test_draw_agrees_inside_jit(step):
  num, count = 2**31 - 1, 700
  pick = jax.jit(lambda places: draw(places[0], places[1], count=count, num=num, seed=(9, 1)))
  place = locate(step, count, num)
  expected = draw(*place, count=count, num=num, seed=(9, 1))
  np.testing.assert_array_equal(pick(np.array(place, np.uint32)), expected)


@pytest.mark.parametrize("num", [0, -1, 2**31])
def test_permute_refuses(num):
  with pytest.raises(ValueError, match=f"num={num}"):
    permute(np.arange(1), num, seed=0)
