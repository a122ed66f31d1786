"""Risk control: its coverage by simulation at the worst distributions, and its properties."""

import itertools

import numpy as np
import pytest
from scipy import stats

from jax_robust.early_exit import exit_taken, risk_control
from jax_robust.early_exit.grid import as_outputs
from jax_robust.early_exit.risk import LOSSES, P_VALUES, last_certified
from jax_robust.early_exit.rules import NEVER

pytestmark = pytest.mark.fast

REPEATS, NUM_IMAGES = 20_000, 150
# A violation rate of alpha is exceeded by this much once in a million simulations.
slack = lambda alpha: stats.binom.isf(1e-6, REPEATS, alpha) / REPEATS - alpha  # noqa: E731


def violations(draw_risks, true_risks, *, test, delta, alpha):
  """The share of simulated calibrations that end at a line whose true risk is above delta."""
  p_values = P_VALUES[test](draw_risks(np.random.default_rng(0)), NUM_IMAGES, delta)
  step = last_certified(p_values, alpha)
  return np.mean((step >= 0) & (np.append(true_risks, 0.0)[step] > delta))


@pytest.mark.parametrize("test", P_VALUES)
@pytest.mark.parametrize(("delta", "alpha"), [(0.05, 0.1), (0.2, 0.05), (0.01, 0.3)])
def test_risk_exceeds_delta_with_probability_alpha(test, delta, alpha):
  """The worst: a first line that is only just not safe; and lines that become so one by one."""
  just = np.array([delta * (1 + 1e-9)])
  sudden = lambda draw: draw.binomial(NUM_IMAGES, just[0], (REPEATS, 1)) / NUM_IMAGES  # noqa: E731
  rate = violations(sudden, just, test=test, delta=delta, alpha=alpha)
  assert rate <= alpha + slack(alpha)
  if test == "clopper_pearson":  # exact but for the steps of a binomial: as much as can be
    steps = stats.binom.cdf(np.arange(NUM_IMAGES), NUM_IMAGES, delta)
    assert abs(rate - max(steps[steps <= alpha], default=0.0)) <= slack(alpha)

  rising = delta * np.linspace(0.5, 1.5, 12)

  def nested(draw):
    """Losses that stay once they are there, as where an image that left early is wrong."""
    count = draw.multinomial(NUM_IMAGES, [*np.diff([0, *rising]), 1 - rising[-1]], REPEATS)
    return np.cumsum(count[:, :-1], axis=1) / NUM_IMAGES

  rate = violations(nested, rising, test=test, delta=delta, alpha=alpha)
  assert rate <= alpha + slack(alpha)


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_losses_between_0_and_1_are_covered(scale):
  """Of a Beta distribution, a sum of values that are no counts."""
  delta, alpha, repeats = 0.2, 0.1, 4000
  draw = np.random.default_rng(1)
  losses = draw.beta(scale * delta, scale * (1 - delta), (repeats, NUM_IMAGES))
  p_values = P_VALUES["hoeffding_bentkus"](losses.mean(axis=1), NUM_IMAGES, delta * (1 - 1e-9))
  assert np.mean(p_values <= alpha) <= alpha


def test_p_values_rise_with_the_risk_and_fall_with_delta():
  risks = np.arange(NUM_IMAGES + 1) / NUM_IMAGES
  for p_value in P_VALUES.values():
    table = np.stack([p_value(risks, NUM_IMAGES, delta) for delta in (0.02, 0.1, 0.3)])
    assert np.all(np.diff(table, axis=1) >= -1e-12) and np.all(np.diff(table, axis=0) <= 1e-12)
    assert np.all(table >= 0) and np.all(table <= 1)
  exact, loose = (P_VALUES[name](risks, NUM_IMAGES, 0.1) for name in P_VALUES)
  assert np.all(exact <= loose + 1e-12)


def problem(num_images=400, seed=0):
  """Three exits of which the later are more often right, and sure of themselves."""
  draw = np.random.default_rng(seed)
  labels = draw.integers(0, 4, num_images)
  outputs = draw.normal(scale=1.2, size=(3, num_images, 4))
  for number, strength in enumerate((1.5, 3.0, 6.0)):
    outputs[number, np.arange(num_images), labels] += strength
  return outputs.astype(np.float32), labels


def test_the_result_is_the_last_line_before_the_first_that_is_not_certified():
  outputs, labels = problem()
  grid = np.linspace(0.98, 0.3, 15)
  found = risk_control(outputs, labels, delta=0.1, alpha=0.1, grid=grid)
  right = outputs.argmax(-1) == labels
  p_values = []
  for threshold in grid:
    taken = np.asarray(exit_taken(as_outputs(outputs), [threshold] * 2))
    lost = np.sum(right[-1] & ~right[taken, np.arange(400)])
    p_values.append(stats.binom.cdf(lost, 400, 0.1))
  step = next(i for i, p in enumerate(p_values) if p > 0.1) - 1
  assert 0 < step < 14 and found.certified
  assert found.step == step and found.p_value == pytest.approx(p_values[step])
  np.testing.assert_allclose(found.thresholds, grid[step], rtol=1e-6)


@pytest.mark.parametrize(
  ("loss", "test"),
  [
    ("accuracy", "clopper_pearson"), ("disagreement", "hoeffding_bentkus"),
    ("brier", "hoeffding_bentkus"),
  ],
)  # fmt: skip
def test_stricter_is_never_lower(loss, test):
  outputs, labels = problem()
  deltas, alphas = (0.02, 0.05, 0.1, 0.2, 0.4), (0.01, 0.1, 0.4)
  steps = np.array([
    [risk_control(outputs, labels, delta=d, alpha=a, loss=loss, test=test).step for a in alphas]
    for d in deltas
  ])  # fmt: skip
  assert np.all(np.diff(steps, axis=0) >= 0) and np.all(np.diff(steps, axis=1) >= 0)
  assert steps[0, 0] < steps[-1, -1]


def test_never_exit_is_the_fallback():
  outputs, labels = problem(20)
  found = risk_control(outputs, labels, delta=0.01, alpha=0.01)
  assert not found.certified and found.step == -1 and found.thresholds.tolist() == [NEVER] * 2
  assert np.all(exit_taken(as_outputs(outputs), found.thresholds) == 2)


def test_losses_are_what_an_image_loses():
  labels = np.zeros(4, int)
  logit = {True: [9.0, 0.0], False: [0.0, 9.0]}
  cases = list(itertools.product((True, False), repeat=2))  # early right, last right
  exits = [np.array([logit[case[number]] for case in cases]) for number in (0, 1)]
  taken = np.array([[0] * 4, [1] * 4])
  losses = {name: loss(exits, labels, taken) for name, loss in LOSSES.items()}
  assert losses["accuracy"].tolist() == [[0, 0, 1, 0], [0] * 4]
  assert losses["disagreement"].tolist() == [[0, 1, 1, 0], [0] * 4]
  p = 1 / (1 + np.exp(9.0))
  np.testing.assert_allclose(losses["brier"][0], [0, 0, (1 - p) ** 2 - p**2, 0], atol=1e-12)
  assert not losses["brier"][1].any()


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"loss": "acuracy"}, "loss='acuracy': did you mean 'accuracy'"),
    ({"test": "clopper"}, "test='clopper': did you mean 'clopper_pearson'"),
    ({"loss": "brier"}, "take 'hoeffding_bentkus'"),
    ({"delta": 0.0}, "delta=0.0: expected a probability"),
    ({"alpha": 1.0}, "alpha=1.0: expected a probability"),
    ({"grid": np.ones((3, 5))}, r"grid has shape \(3, 5\)"),
  ],
)
def test_what_is_no_control_is_refused(options, said):
  outputs, labels = problem(20)
  with pytest.raises(ValueError, match=said):
    risk_control(outputs, labels, **{"delta": 0.1, "alpha": 0.1, **options})
