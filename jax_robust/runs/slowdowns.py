"""Slowdown attacks on a trained model with early exits: what they make of its cost."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import attacks, early_exit
from jax_robust.data.evaluation import as_floats
from jax_robust.errors import ConfigError, check_name
from jax_robust.runs import exits, nets
from jax_robust.runs.blocks import from_config
from jax_robust.runs.evaluation import AttackSetting
from jax_robust.train import metrics

KINDS = ("image", "both", "universal", "class_universal")
"""An image's own perturbation; one that makes the answer wrong too; one for all, or for a class."""

_STEP = attacks.RECIPES["sloth_linf"]["step_size"] / attacks.RECIPES["sloth_linf"]["eps"]
_UNIVERSAL_STEP = 0.005 / attacks.RECIPES["sloth_linf"]["eps"]


def check(config: Any, setting: AttackSetting | None) -> None:
  """Raises ConfigError where a kind is unknown, there twice, or has no ball to attack in."""
  kinds = config.early_exit.slowdowns
  if len(set(kinds)) < len(kinds):
    raise ConfigError(f"config.early_exit.slowdowns={kinds}: expected each once")
  for kind in kinds:
    with from_config("early_exit"):
      check_name("slowdowns", kind, KINDS)
    if kind.endswith("universal") and setting and setting.norm != "linf":
      raise ConfigError(
        f"config.early_exit.slowdowns: {kind!r} perturbs in an l-infinity ball, and the attack in "
        f"evals is in {setting.norm!r}: leave it out"
      )


def measure(
  config: Any,
  subject: nets.Opened,
  setting: AttackSetting,
  thresholds: np.ndarray,
  clean: exits.Scored,
  score: Callable[..., exits.Scored],
  costs: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
  """What each attack of `early_exit.slowdowns` makes of the deployed rule.

  Args:
    config: of the run.
    subject: the model, and the test images.
    setting: the ball.
    thresholds: of the deployed rule.
    clean: all exits' logits of the test images.
    score: `exits.score` of the test images, but for its `change`.
    costs: of each exit, by unit; those that count earlier exits come first.

  Returns:
    `early_exit.slowdown_report` of each kind, in the first unit of the costs, with its ball.
  """
  unit, values = next(iter(costs.items()))
  found = {}
  for kind in config.early_exit.slowdowns:
    attacked = score(change=_make_change(config, subject, setting, kind, thresholds))
    report = early_exit.slowdown_report(
      clean.outputs, attacked.outputs, clean.labels, thresholds, values
    )
    found[kind] = {
      "norm": setting.norm, "eps": setting.eps, "unit": unit, "num_lost": attacked.num_lost,
      **report,
    }  # fmt: skip
    metrics.report(
      f"slowdown by {kind}: expected cost {report['clean']['expected_cost']:.4g} to "
      f"{report['attacked']['expected_cost']:.4g}, efficacy {report['clean']['efficacy']:.3f} to "
      f"{report['attacked']['efficacy']:.3f}"
    )
  return found


def _make_change(config, subject, setting, kind, thresholds) -> Callable:
  """`(x, labels, ids) -> x_adv` of one kind, in the ball of the evaluation's attack."""
  ball = attacks.BALLS[setting.norm](setting.eps)
  if kind.endswith("universal"):
    return _add(_universal(config, subject, kind, ball, setting.eps), ball)
  options: dict[str, Any] = {"ball": ball, "step_size": _STEP * setting.eps}
  if kind == "both":
    options |= {"weight": 1.0, "answer_fn": lambda out: early_exit.answer(out, thresholds)[0]}

  return exits.make_change(config, subject, functools.partial(attacks.slowdown, **options))


def _universal(config, subject, kind, ball, eps) -> np.ndarray:
  """One perturbation, or one for each class, made on the first training images."""
  make = nets.outputs_of_weights(config, subject.net)
  train = exits.training_images(config)
  count = min(config.evaluation.batch_size, train.num_examples)
  images, labels = train.read(np.arange(count))
  attack = getattr(attacks, f"{kind}_slowdown")

  @jax.jit
  def find(variables, x, labels):
    return attack(
      make(*variables), x, labels, jax.random.key(config.seed), ball=ball,
      step_size=_UNIVERSAL_STEP * eps,
    )  # fmt: skip

  x = as_floats(images)
  return np.asarray(find(subject.variables, x, labels))


def _add(delta: np.ndarray, ball: attacks.Ball) -> Callable:
  """`(x, labels, ids) -> x` moved by the perturbation, or by that of the label's class."""

  def change(x, labels, ids):
    moves = delta[np.asarray(labels)] if delta.ndim == x.ndim else delta[None]
    return ball.project(x + moves, jnp.asarray(x))

  return change
