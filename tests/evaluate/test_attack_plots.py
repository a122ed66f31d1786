"""Pictures are drawn: the files open, and show what they are about."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from jax_robust.evaluate import attack_plots

RED = (214, 39, 40)  # matplotlib's tab:red, in which wrong predictions are written


def example(label=1, *, fooled=True, channels=3, seed=0):
  """An image whose prediction is right before and, where `fooled`, wrong after the attack."""
  rng = np.random.default_rng(seed)
  x = rng.uniform(size=(8, 8, channels)).astype(np.float32)
  probs = np.eye(3, dtype=np.float32)[1] * 0.7 + 0.1
  return attack_plots.Example(
    x=x,
    x_adv=np.clip(x + rng.choice([-0.1, 0.1], x.shape), 0, 1).astype(np.float32),
    label=label,
    probs=probs,
    probs_adv=np.roll(probs, 1) if fooled else probs,
  )


CURVE = attack_plots.Curve([0.0, 0.1, 0.2], [0.9, 0.5, 0.1], [0.85, 0.4, 0.05], [0.95, 0.6, 0.2])


def draw(path, examples, curves=None, *, eps=0.1, norm="linf"):
  curves = curves or dict.fromkeys(examples, CURVE)
  attack_plots.draw_evaluation(path, examples, curves, eps=eps, norm=norm)
  with Image.open(path) as image:
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"), int)


def red_pixels(pixels):
  return (np.abs(pixels - np.array(RED)).max(-1) < 10).sum()


@pytest.mark.parametrize(("channels", "norm", "eps"), [(3, "linf", 0.1), (1, "l2", 0.5)])
def test_both_halves_show_something(tmp_path, channels, norm, eps):
  examples = {"trades": [example(seed=i, channels=channels) for i in range(3)]}
  pixels = draw(tmp_path / "evaluate.png", examples, eps=eps, norm=norm)
  height, width, _ = pixels.shape
  assert height > 300 and width > 600
  assert (pixels[:, 0] > 250).all()  # no name at the left is cut off
  for half in (pixels[:, : width // 3], pixels[:, -width // 3 :]):
    ink = (half.min(-1) < 250).mean()
    assert 0.01 < ink < 0.9
    assert len(np.unique(half.reshape(-1, 3), axis=0)) > 50


def test_red_marks_what_is_wrong(tmp_path):
  right = draw(tmp_path / "right.png", {"net": [example(fooled=False)]})
  fooled = draw(tmp_path / "fooled.png", {"net": [example()]})
  never = draw(tmp_path / "never.png", {"net": [example(label=2)]})
  assert red_pixels(right) == 0
  assert 0 < red_pixels(fooled) < red_pixels(never)


def test_classes_are_called_by_name(tmp_path, monkeypatch):
  figures = []
  keep = lambda path, figure, dpi: figures.append(figure)  # noqa: E731
  monkeypatch.setattr(attack_plots.plot_style, "save", keep)

  def texts(**names):
    attack_plots.draw_evaluation(
      tmp_path / "x.png", {"net": [example()]}, {"net": CURVE}, eps=0.1, norm="linf", **names
    )
    found = [each.get_text() for axes in figures[-1].findobj(Axes) for each in axes.texts]
    return [text for text in found if "%" in text]

  assert texts(class_names=("ant", "bee", "cat")) == ["bee  80%", "cat  80%"]
  assert texts() == ["1  80%", "2  80%"]


def test_a_block_for_every_net(tmp_path):
  one = draw(tmp_path / "one.png", {"trades": [example()] * 2})
  two = draw(tmp_path / "two.png", {"trades": [example()] * 2, "standard": [example(fooled=False)]})
  assert two.shape[0] > 1.8 * one.shape[0] and two.shape[1] == one.shape[1]


def test_an_attack_that_did_nothing_is_grey(tmp_path):
  """No division by zero where the radius, and the perturbation with it, is zero."""
  idle = example()._replace(x_adv=example().x)
  with np.errstate(all="raise"):
    pixels = draw(tmp_path / "idle.png", {"net": [idle]}, eps=0.0)
  grey = (np.abs(pixels - 128).max(-1) <= 1).mean()
  assert grey > 0.03
