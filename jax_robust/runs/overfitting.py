"""The detector of catastrophic overfitting of a config: what `overfitting` measures, and judges."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jax_robust.attacks.recipes import keywords
from jax_robust.data import draws
from jax_robust.errors import ConfigError, check_options
from jax_robust.evaluate import diagnostics
from jax_robust.runs import build, evaluation
from jax_robust.runs.blocks import block, from_config
from jax_robust.train import checkpoint, overfitting

NUM_IMAGES = 512
"""Held-out images that the detector looks at, unless the config says how many."""

_KEY = "overfitting"


def check(config: Any) -> None:
  """Builds what the block `overfitting` names; a config without one is left alone.

  Raises:
    ConfigError: a misspelt key, no attack, or a value that its function refuses.
  """
  if _KEY not in config:
    return
  options, judged = _options(config), keywords(overfitting.judge)
  known = (judged | keywords(diagnostics.attacked_exits) | {"num_images"}) - {"eps"}
  check_options(_KEY, options, known)
  _evaluators(config)
  with from_config(_KEY):
    make_judge(config)({}, 0, {})
  if options.get("num_images", 0) < 0:
    raise ConfigError(f"config.{_KEY}.num_images={options['num_images']}: expected at least 0")
  if options.get("stop") and config.evaluation.checkpoint == checkpoint.LATEST:
    raise ConfigError(
      f"config.{_KEY}.stop=true keeps the weights of the last evaluation without an alarm, but "
      "evaluation.checkpoint='latest' is those that have overfitted: set "
      "evaluation.checkpoint='accepted', or 'best'"
    )


def make_judge(config: Any) -> Callable[..., Any]:
  """`(record, step, values) -> (record, alarms)`, as the block says."""
  options = _options(config)
  known = keywords(overfitting.judge)
  return functools.partial(
    overfitting.judge, **{name: value for name, value in options.items() if name in known}
  )


def stops(config: Any) -> bool:
  """Whether an alarm ends the run."""
  return bool(_options(config).get("stop", False))


def make_measure(config: Any, net: Any, source: Any) -> Callable[[Any], Mapping[str, float]]:
  """`state -> accuracies` of each exit under the attack of several steps, and under FGSM.

  Args:
    config: of the run.
    net: the module.
    source: held-out images, of which the first, or those drawn by class, are looked at each time.
  """
  chosen = draws.take(
    source, _options(config).get("num_images") or NUM_IMAGES, draw=build.draw_rule(config)
  )
  scoring = evaluation.make_score(config, net, chosen, bound=_evaluators(config), key=_KEY)

  def measure(current):
    columns = scoring.score(current.ema, current.model_state)
    return {name: float(columns[name].mean()) for name in scoring.measures}

  return measure


def _options(config) -> dict[str, Any]:
  return block(config, _KEY)


def _evaluators(config) -> dict[str, functools.partial]:
  """The two evaluations: under the config's attack, and under FGSM in the same ball."""
  options = _options(config)
  attack = dict(options.get("attack") or {})
  if "eps" not in attack:
    raise ConfigError(
      f"config.{_KEY}.attack needs name, norm and eps, such as attacks.RECIPES['pgd_10']"
    )
  single = {"name": "fgsm", "norm": attack.get("norm", "linf"), "eps": attack["eps"]}
  aim = {"aim": options["aim"]} if "aim" in options else {}
  with from_config(_KEY):
    diagnostics.read_aim(aim.get("aim", "average"))
  found = {}
  for name, each in ((overfitting.SEVERAL, attack), (overfitting.SINGLE, single)):
    build.attack(f"{_KEY}.attack", each)
    make = functools.partial(_attack_at, each)
    found[name] = functools.partial(
      diagnostics.attacked_exits, attack=make, eps=attack["eps"], **aim
    )
  return found


def _attack_at(options: Mapping[str, Any], eps: Any) -> Any:
  """The attack with another radius, which may be traced."""
  return build.attack(f"{_KEY}.attack", options, eps=eps)
