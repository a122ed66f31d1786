"""Attacks from plain data, as a config writes them: names and numbers in, a function out."""

import functools
import inspect
from typing import Any

from jax_robust.attacks.apgd import apgd, apgd_targeted
from jax_robust.attacks.balls import BALLS
from jax_robust.attacks.cw import cw_l2
from jax_robust.attacks.ddn import ddn
from jax_robust.attacks.fab import fab, fab_targeted
from jax_robust.attacks.multi_targeted import multi_targeted
from jax_robust.attacks.pgd import bim, cw_linf, fgsm, mim, n_fgsm, pgd, rs_fgsm
from jax_robust.attacks.pgd_steps import adam, piecewise_constant
from jax_robust.attacks.slowdown import slowdown
from jax_robust.attacks.square import square
from jax_robust.errors import check_name, near_miss
from jax_robust.losses import LOSSES
from jax_robust.types import Attack

ATTACKS = {
  attack.__name__: attack
  for attack in (
    fgsm, rs_fgsm, n_fgsm, pgd, bim, mim, cw_linf,
    multi_targeted, cw_l2, ddn, apgd, apgd_targeted, fab, fab_targeted, square, slowdown,
  )
}  # fmt: skip
"""The attacks by the name a config gives them."""

OPTIMIZERS = {"adam": adam}
"""Optimisers on the input: functions of `step_sizes`."""

RECIPES = {
  # TRADES with generated data as released: the target is the clean prediction.
  "trades_adam": {
    "name": "pgd",
    "norm": "linf",
    "eps": 8 / 255,
    "num_steps": 10,
    "optimizer": "adam",
    "step_sizes": {"0": 0.1, "5": 0.01},
  },
  # The step that the papers print, and most re-implementations take.
  "trades_sign": {
    "name": "pgd",
    "norm": "linf",
    "eps": 8 / 255,
    "num_steps": 10,
    "step_size": 2 / 255,
  },
  "trades_2019": {
    "name": "pgd",
    "norm": "linf",
    "eps": 0.031,
    "num_steps": 10,
    "step_size": 0.007,
    "start": "normal",
  },
  # Normalised gradient. The released code has no l2 attack; 15/255 is what a later paper prints.
  "trades_l2": {
    "name": "pgd",
    "norm": "l2",
    "eps": 128 / 255,
    "num_steps": 10,
    "step_size": 15 / 255,
  },
  # Evaluation in training. The released schedule ends at 1e-4 (see `piecewise_constant`).
  "pgd_40": {
    "name": "pgd",
    "norm": "linf",
    "eps": 8 / 255,
    "loss": "margin",
    "num_steps": 40,
    "optimizer": "adam",
    "step_sizes": {"0": 0.1, "20": 0.01, "30": 0.001},
  },
  # Inner attacks of adversarial training: "Fast is better than free" has seven steps, Madry et al.
  # have ten of the same size.
  "pgd_7": {
    "name": "pgd",
    "norm": "linf",
    "eps": 8 / 255,
    "num_steps": 7,
    "step_size": 2 / 255,
  },
  "pgd_10": {
    "name": "pgd",
    "norm": "linf",
    "eps": 8 / 255,
    "num_steps": 10,
    "step_size": 2 / 255,
  },
  # The usual report of fast adversarial training; PGD-100 is the same with more steps.
  "pgd_20": {
    "name": "pgd",
    "norm": "linf",
    "eps": 8 / 255,
    "num_steps": 20,
    "step_size": 2 / 255,
  },
  # DeepSloth, per image.
  "sloth_linf": {
    "name": "slowdown",
    "norm": "linf",
    "eps": 0.03125,
    "num_steps": 30,
    "step_size": 0.002,
  },
  # The published l2 attack has no radius; this is the usual one, and the share of it that a step
  # is in `sloth_linf`.
  "sloth_l2": {
    "name": "slowdown",
    "norm": "l2",
    "eps": 0.5,
    "num_steps": 30,
    "step_size": 0.032,
  },
}
"""Published attacks as data: `make_attack(**RECIPES['pgd_40'])`."""


def make_attack(
  name: str,
  *,
  norm: str = "linf",
  eps: Any,
  loss: str | None = None,
  optimizer: str | None = None,
  step_sizes: Any = None,
  **options: Any,
) -> Attack:
  """Builds an attack from plain data: strings and numbers.

  Args:
    name: one of `ATTACKS`.
    norm: one of `BALLS`.
    eps: radius in units of the image; may be traced.
    loss: one of `losses.LOSSES`; default the attack's own, cross entropy.
    optimizer: one of `OPTIMIZERS`, with `step_sizes`; default steepest ascent in the ball.
    step_sizes: `{first step: size}`: see `piecewise_constant`.
    **options: the attack's other keywords (`num_steps`, `start`, ...), and the ball's (`sparsity`
      for l1, `exact` for l2).

  Returns:
    `attack(logits_fn, x, targets, rng) -> x_adv`; it still takes keywords, such as `start=`.

  Raises:
    ValueError: an unknown name, with the near miss; an optimizer without step sizes.
    TypeError: an option that neither the attack nor the ball knows, with the near miss.

  >>> attack = make_attack("pgd", norm="linf", eps=8 / 255, num_steps=10, step_size=2 / 255)
  >>> make_attack("pdg", eps=8 / 255)
  Traceback (most recent call last):
  ...
  ValueError: name='pdg': did you mean 'pgd'?
  """
  check_name("name", name, ATTACKS)
  check_name("norm", norm, BALLS)
  attack, make_ball = ATTACKS[name], BALLS[norm]
  if loss is not None:
    check_name("loss", loss, LOSSES)
    options["loss_fn"] = LOSSES[loss]
  if optimizer is not None:
    check_name("optimizer", optimizer, OPTIMIZERS)
    if step_sizes is None:
      raise ValueError(f"optimizer={optimizer!r} without step_sizes: expected {{first step: size}}")
    options["optimizer"] = OPTIMIZERS[optimizer](step_sizes)
  elif step_sizes is not None:
    if "step_size" in options:
      raise ValueError("step_size and step_sizes are both given: expected one of them")
    options["step_size"] = piecewise_constant(step_sizes)

  ball_keywords, attack_keywords = keywords(make_ball), keywords(attack) - {"ball"}
  for option in options:
    if option not in ball_keywords | attack_keywords:
      written = {"loss" if key == "loss_fn" else key for key in ball_keywords | attack_keywords}
      raise TypeError(f"{name} in {norm} has no option {option!r}{near_miss(option, written)}")
  ball = make_ball(eps, **{key: options.pop(key) for key in ball_keywords & options.keys()})
  return functools.partial(attack, ball=ball, **options)


def keywords(function) -> set[str]:
  """The names of a function's keyword-only parameters."""
  return set(parameters(function))


def parameters(function) -> dict[str, inspect.Parameter]:
  """A function's keyword-only parameters by name."""
  every = inspect.signature(function).parameters
  return {name: each for name, each in every.items() if each.kind is each.KEYWORD_ONLY}
