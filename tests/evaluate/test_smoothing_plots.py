"""Pictures of smoothed classifiers: files that open, each method in its colour, nothing covered."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from jax_robust.evaluate import smoothing_plots as plots
from jax_robust.evaluate.plot_style import COLORS
from jax_robust.smoothing.log import make_log


def log_of(seed, *, scale=1.0, count=300, sigma=0.5):
  """A log of a classifier that abstains sometimes and errs sometimes."""
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 10, count)
  predict = np.where(rng.uniform(size=count) < 0.9, label, (label + 1) % 10)
  predict[rng.uniform(size=count) < 0.05] = -1
  radius = np.minimum(scale * sigma * rng.gamma(4, 0.4, count), 3.81 * sigma)
  return make_log(range(count), label, predict, np.where(predict < 0, 0.0, radius))


@pytest.fixture
def drawn(monkeypatch, tmp_path):
  """Runs a drawing; the pixels of its file, and the figure."""
  figures = []
  save = Figure.savefig
  monkeypatch.setattr(
    Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw))[1]
  )

  def draw(function, *args, **options):
    path = tmp_path / "picture.png"
    function(path, *args, **options)
    with Image.open(path) as image:
      assert image.format == "PNG"
      return np.asarray(image.convert("RGB"), int), figures[-1]

  return draw


def pixels_of(picture, color):
  """How many pixels have a colour."""
  return int((np.abs(picture - 255 * np.array(to_rgb(color))).max(-1) < 6).sum())


def check_nothing_is_cut_or_covered(picture, figure):
  """White edges all around, and the legend beside the axes."""
  for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
    assert (edge > 250).all()
  renderer = figure.canvas.get_renderer()
  for legend, axes in itertools.product(figure.legends, figure.axes):
    box = legend.get_window_extent(renderer)
    assert not box.overlaps(axes.get_window_extent(renderer))
    assert box.x1 <= figure.bbox.x1 and box.y0 >= 0


METHODS = ("Gaussian", "Stability", "SmoothAdv", "MACER", "Consistency", "SmoothMix", "CAT-RS")


def test_certified_accuracy(drawn):
  logs = {name: log_of(i, scale=1 + 0.1 * i) for i, name in enumerate(METHODS)}
  picture, figure = drawn(plots.draw_certified_accuracy, logs)
  check_nothing_is_cut_or_covered(picture, figure)
  for color in COLORS:
    assert pixels_of(picture, color) > 300
  names = [text.get_text().split("\n") for text in figure.legends[0].get_texts()]
  averages = [float(second.removeprefix("ACR ")) for _, second in names]
  assert {first for first, _ in names} == set(METHODS)
  assert averages == sorted(averages, reverse=True)


def test_a_curve_ends_at_its_largest_radius(drawn):
  logs = {"small": log_of(0, sigma=0.25), "large": log_of(0, sigma=0.5)}
  _, figure = drawn(plots.draw_certified_accuracy, logs)
  lines = [line for line in figure.axes[0].get_lines() if line.get_linestyle() != ":"]
  ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines]
  for (x, y), log in zip(ends, logs.values(), strict=True):
    assert x == log.radius.max() and y == 100 * np.mean(log.correct & (log.radius >= x))


def test_nothing_certified_is_drawn_too(drawn):
  nothing = make_log([0, 1], [1, 1], [-1, -1], [0.0, 0.0])
  with np.errstate(all="raise"):
    for figure in (
      drawn(plots.draw_certified_accuracy, {"none": nothing})[1],
      drawn(plots.draw_probabilities, {"none": nothing}, {"none": 0.5})[1],
    ):
      heights = {y for line in figure.axes[0].get_lines() for y in line.get_ydata()}
      assert heights <= {0.0, 100.0}, heights


def test_probabilities(drawn):
  logs = {"Gaussian": log_of(0), "SmoothMix": log_of(1, scale=1.3, sigma=1.0)}
  picture, figure = drawn(plots.draw_probabilities, logs, {"Gaussian": 0.5, "SmoothMix": 1.0})
  check_nothing_is_cut_or_covered(picture, figure)
  assert all(pixels_of(picture, color) > 300 for color in COLORS[:2])
  axes = figure.axes[0]
  for line, log in zip(axes.get_lines(), logs.values(), strict=True):
    assert line.get_ydata()[0] == pytest.approx(100 * (1 - log.correct.mean()))
    assert (np.diff(line.get_ydata()) >= 0).all()
    assert line.get_xdata()[-1] < axes.get_xlim()[1] < 1


def test_trade_off(drawn):
  sweep = ((0.956, 1.789), (0.949, 1.810), (0.940, 1.820), (0.934, 1.818), (0.929, 1.812))
  methods = {
    "Gaussian": [plots.run_of(log_of(0, scale=1.9))],
    "SmoothMix": [plots.Run(*point, f"η = {2**i}") for i, point in enumerate(sweep)],
    "SmoothAdv": [plots.Run(0.958, 1.779)],
    "Consistency + SmoothAdv": [plots.Run(0.942, 1.816)],
  }
  picture, figure = drawn(plots.draw_trade_off, methods)
  check_nothing_is_cut_or_covered(picture, figure)
  axes = figure.axes[0]
  assert {text.get_text() for text in axes.texts} == {
    "Gaussian", "SmoothMix, η = 1", "η = 2", "η = 4", "η = 8", "η = 16", "SmoothAdv",
    "Consistency + SmoothAdv",
  }  # fmt: skip
  renderer = figure.canvas.get_renderer()
  boxes = [text.get_window_extent(renderer) for text in axes.texts]
  assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
  joined = [line for line in axes.get_lines() if len(line.get_xdata()) == 5]
  assert len(joined) == 1 and joined[0].get_color() == COLORS[1]


def test_a_run_of_a_log():
  log = log_of(3)
  run = plots.run_of(log, "η = 5")
  assert run.clean == log.correct.mean() and run.label == "η = 5"
  assert run.average_radius == pytest.approx(np.mean(log.correct * log.radius))
  assert run.clean_interval[0] < run.clean < run.clean_interval[1]
  assert run.radius_interval[0] < run.average_radius < run.radius_interval[1]


@pytest.mark.parametrize("panels", [1, 3])
def test_reliability(drawn, panels):
  rng = np.random.default_rng(0)
  confidence = rng.uniform(0.5, 1, 400)
  votes = {
    name: (confidence, rng.uniform(size=400) < confidence - 0.1) for name in METHODS[:panels]
  }
  picture, figure = drawn(plots.draw_reliability, votes)
  check_nothing_is_cut_or_covered(picture, figure)
  assert len(figure.axes) == 2 * panels
  for color, axes in zip(COLORS[:panels], figure.axes, strict=False):
    assert pixels_of(picture, color) > 300
    assert 0.05 < float(axes.get_title().split("ECE ")[1]) < 0.2


@pytest.mark.parametrize("positions", [None, [0.0, 0.1, 0.5, 1.0]])
def test_confidence_path(drawn, positions):
  values = {"Gaussian": np.linspace(1, 0, 4), "SmoothMix": np.linspace(0.9, 0.2, 4)}
  spread = np.linspace(-0.1, 0.1, 5)[:, None]
  confidences = {name: np.clip(value + spread, 0, 1) for name, value in values.items()}
  picture, figure = drawn(plots.draw_confidence_path, confidences, positions)
  check_nothing_is_cut_or_covered(picture, figure)
  assert all(pixels_of(picture, color) > 300 for color in COLORS[:2])
  for line, rows in zip(figure.axes[0].get_lines(), confidences.values(), strict=True):
    np.testing.assert_allclose(line.get_ydata(), rows.mean(axis=0))
    expected = np.linspace(0, 1, 4) if positions is None else positions
    np.testing.assert_allclose(line.get_xdata(), expected)


def test_more_methods_than_colours(drawn):
  logs = {f"method {i}": log_of(i) for i in range(9)}
  _, figure = drawn(plots.draw_certified_accuracy, logs)
  lines = [line for line in figure.axes[0].get_lines() if line.get_linestyle() != ":"]
  looks = {(line.get_color(), str(line._dash_pattern)) for line in lines}
  assert len(looks) == 9
