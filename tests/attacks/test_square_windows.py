"""The windows of Square Attack: schedule, bumps, starts and proposals, to the number."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from square_problem import NUM_ROWS, ONE_SIZE, RADII, begin, images, walk

from jax_robust import attacks
from jax_robust.attacks.square_search import bump_pair, window_sizes


@pytest.mark.parametrize(
  ("norm", "sides"),
  [("linf", (29, 20, 14, 10, 7, 5, 4, 3)), ("l2", (29, 21, 15, 11, 7, 5, 5, 3))],
)
def test_windows_of_cifar_shrink_on_schedule(norm, sides):
  sizes = window_sizes(5000, 32, 32, norm=norm)
  starts = (0, 11, 51, 201, 501, 1001, 2001, 4001, 5000)
  expected = np.concatenate(
    [np.full(end - start, s) for s, start, end in zip(sides, starts, starts[1:], strict=False)]
  )
  np.testing.assert_array_equal(sizes, expected)
  if norm == "l2":
    np.testing.assert_array_equal(window_sizes(5000, 32, 32, norm="l1"), expected)


def test_schedule_of_ten_thousand_may_be_rescaled():
  full = window_sizes(10_000, 224, 224, norm="linf", p_init=0.05)
  assert full[[0, 6001, 8001]].tolist() == [50, 3, 2]
  short = window_sizes(1000, 224, 224, norm="linf", p_init=0.05, resc_schedule=True)
  np.testing.assert_array_equal(short, full[::10])


def test_windows_fit_into_the_shorter_side():
  assert window_sizes(100, 6, 40, norm="linf").max() == 6
  assert window_sizes(100, 6, 40, norm="l2").max() == 6
  assert window_sizes(100, 2, 2, norm="l2").tolist() == [2] * 100
  assert window_sizes(1000, 4, 4, norm="linf").min() == 1


def squares_added_up(height, width, power):
  """A bump, built from its definition."""
  bump, row, column = np.zeros((height, width)), height // 2, width // 2
  for k in range(max(height // 2 + 1, width // 2 + 1)):
    rows = slice(max(row - k, 0), min(row + k + 1, height))
    columns = slice(max(column - k, 0), min(column + k + 1, width))
    bump[rows, columns] += 1 / (k + 1) ** power
  return bump


@pytest.mark.parametrize(("norm", "power", "order"), [("l2", 2, 2), ("l1", 4, 1)])
@pytest.mark.parametrize("size", [2, 3, 5, 6, 11])
def test_bumps_are_squares_added_up(norm, power, order, size):
  upper = squares_added_up(size // 2, size, power).ravel()
  lower = squares_added_up(size - size // 2, size, power).ravel()
  both = np.concatenate(
    [upper / np.linalg.norm(upper, order), -lower / np.linalg.norm(lower, order)]
  )
  both = (both / np.linalg.norm(both, order)).reshape(size, size)
  np.testing.assert_allclose(bump_pair(size, norm), both, atol=1e-12)


def test_linf_starts_from_stripes():
  x = images(on_faces=False)
  _, state = begin("linf", x)
  sign = np.asarray(state.x_adv - x) / RADII["linf"]
  np.testing.assert_allclose(np.abs(sign), 1, atol=1e-5)
  np.testing.assert_allclose(sign, np.broadcast_to(sign[:, :1], sign.shape), atol=1e-5)
  assert len(np.unique(np.round(sign[:, 0]).reshape(NUM_ROWS, -1), axis=0)) == NUM_ROWS
  assert np.any(sign[:, 0, :, 0] * sign[:, 0, :, 1] < 0)  # channels are drawn apart


def test_l2_starts_from_five_by_five_tiles():
  x = jnp.full((NUM_ROWS, 32, 32, 3), 0.5)
  ball, state = begin("l2", x)
  np.testing.assert_allclose(ball.distance(state.x_adv, x), RADII["l2"], rtol=1e-5)
  delta = np.asarray(state.x_adv - x)
  assert not delta[:, [0, 31]].any() and not delta[:, :, [0, 31]].any()
  tiles = delta[:, 1:31, 1:31].reshape(NUM_ROWS, 5, 6, 5, 6, 3).transpose(0, 1, 3, 5, 2, 4)
  tiles = tiles.reshape(-1, 6, 6) / np.linalg.norm(tiles.reshape(-1, 36), axis=1)[:, None, None]
  pair = bump_pair(6, "l2")
  seen = set()
  for tile in tiles:
    which = [np.allclose(tile, p, atol=1e-4) for p in (pair, -pair, pair.T, -pair.T)]
    assert sum(which) == 1
    seen.add(which.index(True))
  assert seen == {0, 1, 2, 3}


def box_of(changed):
  """Height and width of the smallest rectangle around the pixels that changed."""
  rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
  return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def test_linf_changes_only_the_window():
  x = images(on_faces=False)
  states = walk("linf", x, 20, take_all=True)
  sizes = window_sizes(300, 7, 9, norm="linf")
  np.testing.assert_array_equal(states[0].x_adv, states[1].x_adv)  # the start is a query
  for number, (before, after) in enumerate(itertools.pairwise(states[1:])):
    assert np.all(np.asarray(after.count) == number + 2)
    sign = np.round(np.asarray(after.x_adv - x) / RADII["linf"])
    assert set(np.unique(sign)) == {-1, 1}
    for row in range(NUM_ROWS):
      changed = np.asarray(after.x_adv[row] != before.x_adv[row])
      if changed.any():
        _, _, height, width = box_of(changed.any(-1))
        assert max(height, width) <= sizes[number]
        # What changed in a channel has one sign.
        assert all(len(np.unique(sign[row][..., c][changed[..., c]])) < 2 for c in range(3))


def test_windows_and_signs_are_the_rows_own():
  """They differ from row to row, reach every pixel, and are as large as the schedule says."""
  x = jnp.full((400, 7, 9, 1), 0.5)
  states = walk("linf", x, 4, take_all=True, search=ONE_SIZE)
  (size,) = set(window_sizes(11, 7, 9, norm="linf", p_init=0.1))
  changed = np.asarray(states[-1].x_adv != states[-2].x_adv)[..., 0]
  boxes = [box_of(row) for row in changed if row.any()]
  corners = {box[:2] for box in boxes if box[2:] == (size, size)}
  assert corners == {(i, j) for i in range(7 - size + 1) for j in range(9 - size + 1)}


def test_l2_step_keeps_the_norm_and_moves_mass_between_two_windows():
  x = images((12, 12, 3), on_faces=False)
  states = walk("l2", x, 12, take_all=True, search=ONE_SIZE)
  (size,) = set(window_sizes(11, 12, 12, norm="l2", p_init=0.1))
  ball = attacks.l2_ball(RADII["l2"])
  for before, after in itertools.pairwise(states[1:]):
    np.testing.assert_allclose(ball.distance(after.x_adv, x), RADII["l2"], rtol=1e-5)
    for row in range(NUM_ROWS):
      old, new = np.asarray(before.x_adv - x)[row], np.asarray(after.x_adv - x)[row]
      # Outside of the windows everything is scaled by one number.
      large = np.abs(old) > 1e-3
      ratio = new[large] / old[large]
      scale = np.median(ratio)
      moved = np.abs(new - scale * old).max(-1) > 1e-5
      assert 0 < moved.sum() <= 2 * size**2


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_proposal_is_that_of_the_formula(norm):
  """A step is one of all that there can be, which are recomputed in float64."""
  x = images((5, 5, 2), on_faces=False)
  states = walk(norm, x, 3, take_all=True, search=ONE_SIZE)
  ball = attacks.BALLS[norm](RADII[norm])
  size = int(window_sizes(11, 5, 5, norm=norm, p_init=0.1)[0])
  for row in range(2):
    old = np.asarray(states[2].x_adv - x, np.float64)[row]
    every = jnp.asarray(np.stack(list(proposals(old, size, norm))), jnp.float32)
    centre = jnp.broadcast_to(x[row], every.shape)
    every = ball.project(centre + every, centre)
    distance = np.abs(every - states[3].x_adv[row][None]).reshape(len(every), -1).max(1)
    assert distance.min() < 1e-5 < np.median(distance)


def proposals(old, size, norm):
  """Every proposal that a perturbation `[h, w, 2]` can get, before it is projected."""
  order, eps, num_places = (2 if norm == "l2" else 1), RADII[norm], old.shape[0] - size + 1
  norm_of = lambda v, axes: (np.abs(v) ** order).sum(axes) ** (1 / order)  # noqa: E731
  for top, left, top2, left2 in np.ndindex(*(num_places,) * 4):
    window = np.s_[top : top + size, left : left + size]
    outside = old.copy()
    outside[window] = outside[top2 : top2 + size, left2 : left2 + size] = 0
    taken = norm_of(old - outside, (0, 1))
    unused = max(eps**order - norm_of(old, (0, 1, 2)) ** order, 0)
    mass = np.sqrt(unused / 2 + taken**2) if norm == "l2" else (unused / 2 + taken) * 2
    for pair in (bump_pair(size, norm), bump_pair(size, norm).T):
      for signs in itertools.product((1, -1), repeat=2):
        mixed = pair[..., None] * signs + old[window] / (norm_of(old[window], (0, 1)) + 1e-12)
        new = outside.copy()
        new[window] = mixed / norm_of(mixed, (0, 1)) * mass
        yield new * (eps / norm_of(new, (0, 1, 2)) if norm == "l2" else 1)
