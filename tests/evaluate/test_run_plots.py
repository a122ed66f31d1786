"""Curves of several trainings: a line for each that has values, its colour the same everywhere."""

import matplotlib.colors
import numpy as np
import pytest

from jax_robust.evaluate import plot_style, run_plots


def draw(path, curves, **options):
  """The figure that is saved."""
  with plot_style.collected() as figures:
    run_plots.draw_curves(path / "x.png", curves, "loss", **options)
  assert (path / "x.png").read_bytes().startswith(b"\x89PNG")
  return figures["x"]


def test_a_run_keeps_its_colour_where_another_has_no_values(tmp_path):
  curves = {"_a": ([], []), "b $x$": ([1, 2, 3], [0.5, float("nan"), 1.0])}
  figure = draw(tmp_path, curves, is_share=True)
  (axes,) = figure.get_axes()
  (line,) = axes.get_lines()
  assert line.get_color() == matplotlib.colors.to_hex(plot_style.COLORS[1]).upper()
  np.testing.assert_array_equal(line.get_ydata(), [50.0, np.nan, 100.0])
  assert axes.get_ylim() == (0, 100) and axes.get_ylabel() == "loss (%)"
  assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"b \$x\$"]


@pytest.mark.parametrize("count, named", [(24, True), (25, False)])
def test_very_many_runs_have_no_legend(tmp_path, count, named):
  curves = {f"run {i}": ([1], [float(i)]) for i in range(count)}
  figure = draw(tmp_path, curves)
  assert len(figure.get_axes()[0].get_lines()) == count and bool(figure.legends) == named


def test_a_long_name_is_cut(tmp_path):
  (text,) = draw(tmp_path, {"x" * 200: ([1], [1.0])}).legends[0].get_texts()
  assert len(text.get_text()) == 80 and text.get_text().endswith("…")
