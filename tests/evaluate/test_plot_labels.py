"""Labels beside points: near them, apart from each other, from points and from lines."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jax_robust.evaluate import plot_labels

pytestmark = pytest.mark.fast


def place(points, names, lines):
  """The figure, and the boxes of the labels, in pixels."""
  figure = Figure(figsize=(6, 4), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots()
  for line in lines:
    axes.plot(*line)
  axes.margins(0.15)
  texts = [axes.text(*point, name) for point, name in zip(points, names, strict=True)]
  plot_labels.place_labels(figure, axes, texts, lines)
  figure.draw_without_rendering()
  renderer = figure.canvas.get_renderer()
  return figure, axes, [text.get_window_extent(renderer) for text in texts]


@pytest.mark.parametrize("seed", range(4))
def test_labels_are_apart_and_near(seed):
  rng = np.random.default_rng(seed)
  points = rng.uniform(size=(7, 2))
  points[1] = points[0] + 0.02  # two that crowd each other
  names = [f"method {i}, η = {i}" for i in range(7)]
  lines = [tuple(points[:3].T), *((point[:1], point[1:]) for point in points[3:])]
  _, axes, boxes = place(points, names, lines)
  for first, second in itertools.combinations(boxes, 2):
    assert not first.overlaps(second)
  pixels = axes.transData.transform(points)
  on_line = np.concatenate(
    [np.linspace(pixels[i], pixels[i + 1], 200) for i in range(2)] + [pixels]
  )
  for box, pixel in zip(boxes, pixels, strict=True):
    assert not any(box.contains(*point) for point in on_line)
    assert axes.get_window_extent().contains(box.x0, box.y0)
    assert axes.get_window_extent().contains(box.x1, box.y1)
    nearest = np.clip(pixel, [box.x0, box.y0], [box.x1, box.y1])
    assert np.hypot(*(nearest - pixel)) < 80


def test_the_first_choice_is_the_right_hand_side():
  _, axes, (box,) = place([(0.5, 0.5)], ["here"], [([0.5], [0.5])])
  pixel = axes.transData.transform((0.5, 0.5))
  assert box.x0 > pixel[0] and box.y0 < pixel[1] < box.y1
