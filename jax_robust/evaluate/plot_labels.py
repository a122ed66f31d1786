"""Places for the labels of points in a plot, so that none covers another, a point or a line."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

_GAP = 7.0  # between a label and its point, in points of print
_CLEARANCE = 4.0  # that a label keeps from lines, in points of print
_DIRECTIONS = (
  (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1),
  (0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1),
)  # fmt: skip
_REACHES = (1.0, 1.4, 1.8, 2.4, 3.2, 4.0, 5.0, 6.5, 8.0)
_LEADER = 2.0  # from this reach on, a thin line leads to the point
_ILLEGIBLE = 100  # the cost of covering a label, or of leaving the axes


def place_labels(figure, axes, texts: Sequence, lines: Sequence[tuple]) -> None:
  """Moves labels away from their points, to where they cover least.

  One label after the other takes the nearest free place: right, left, above, below, diagonal.

  Args:
    figure: matplotlib's; its layout is final afterwards.
    axes: matplotlib's, with final limits.
    texts: matplotlib's, each at the point that it names.
    lines: x and y of the points of each line that must not be covered.
  """
  for text in texts:
    text.set_in_layout(False)
  figure.draw_without_rendering()
  renderer = figure.canvas.get_renderer()
  figure.set_layout_engine("none")  # it would move the axes after the places are computed
  scale = figure.dpi / 72
  frame = axes.get_window_extent(renderer)
  near = np.concatenate([_along(axes.transData.transform(np.stack(line, 1))) for line in lines])
  drawn = np.concatenate([near - _CLEARANCE * scale, near + _CLEARANCE * scale], axis=1)
  labels = np.zeros((0, 4))
  to_data = axes.transData.inverted().transform
  for text in texts:
    extent = text.get_window_extent(renderer)
    point = axes.transData.transform(text.get_position())
    places = list(_places(point, np.array([extent.width, extent.height]), _GAP * scale))
    costs = [
      reach
      + _overlaps(box, drawn)
      + _ILLEGIBLE * (_overlaps(box, labels) + (not _is_inside(box, frame)))
      for reach, box in places
    ]
    reach, box = places[int(np.argmin(costs))]
    text.set(ha="center", va="center", position=to_data((box[:2] + box[2:]) / 2))
    margin = scale * np.array([-1, -1, 1, 1])
    labels = np.concatenate([labels, (box + margin)[None]])
    if reach > _LEADER:
      ends = to_data([np.clip(point, box[:2], box[2:]), point])
      axes.plot(*ends.T, color=text.get_color(), linewidth=0.6, zorder=1)


def _places(point: np.ndarray, size: np.ndarray, gap: float) -> Iterator[tuple[float, np.ndarray]]:
  """Boxes around a point, the nearest first: the reach, and [left, lower, right, upper]."""
  for reach, direction in itertools.product(_REACHES, _DIRECTIONS):
    middle = point + np.array(direction) * (size / 2 + reach * gap)
    yield reach, np.concatenate([middle - size / 2, middle + size / 2])


def _along(line: np.ndarray) -> np.ndarray:
  """Points on a line, at most a few pixels apart, with the ends of its segments among them."""
  parts = [line[:1]]
  for start, end in itertools.pairwise(line):
    count = max(int(np.hypot(*(end - start)) // 4), 1)
    parts.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
  return np.concatenate(parts)


def _overlaps(box: np.ndarray, others: np.ndarray) -> int:
  """How many boxes a box touches."""
  beside = np.any((others[:, :2] > box[2:]) | (others[:, 2:] < box[:2]), axis=1)
  return int(np.sum(~beside))


def _is_inside(box: np.ndarray, frame) -> bool:
  """Whether a box lies in the axes."""
  ends = np.array([frame.x0, frame.y0, frame.x1, frame.y1])
  return bool(np.all(box[:2] > ends[:2]) and np.all(box[2:] < ends[2:]))
