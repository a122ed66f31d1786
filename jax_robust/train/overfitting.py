"""Catastrophic overfitting, found in the accuracies that a training measures of its exits.

A net that is trained on single-step examples may within an epoch lose its robustness against
attacks of several steps, and keep that against a single one. `judge` is a pure function of what was
measured, so that a run that goes on after a kill decides as an uninterrupted one.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_robust.errors import check_flag

SEVERAL, SINGLE = "overfitting/several", "overfitting/single"
"""What the accuracies are called, before a slash and the number of the exit: under an attack of
several steps, and under FGSM."""

DROP, GAP, LOST = "drop", "gap", "lost"


class Alarm(NamedTuple):
  """An exit that has overfitted.

  Attributes:
    exit: its number.
    rule: 'drop', 'gap' or 'lost'.
    fall: by how much it lies below what it is compared with.
    accuracy: under the attack of several steps.
  """

  exit: int
  rule: str
  fall: float
  accuracy: float


def judge(
  record: Mapping[str, Any],
  step: int,
  values: Mapping[str, float],
  *,
  drop: float = 0.2,
  gap: float = 0.3,
  lost: float = 0.0,
  stop: bool = False,
) -> tuple[dict[str, Any], list[Alarm]]:
  """The record after an evaluation, and the alarms that it raises: one per exit and rule.

  Exit k raises an alarm of the rule

  - `drop` where its accuracy under the attack of several steps is by more than `drop` below that of
    the evaluation before: Wong's rule, who looks at the epoch's first training batch;
  - `gap` where its accuracy under FGSM exceeds that under the attack of several steps by more than
    `gap`. This rule and its bound are an inference: no paper states them.
  - `lost` where it has lost more than a share `lost` of the best that was measured so far. This
    rule is ours: a net that is .2 robust when it overfits can fall by neither of the other bounds.

  A NaN counts as a fall.

  Guarantees:
    `slow_falls_raise_no_drop`: whatever they add up to; they may raise `lost`.
    `the_record_is_data`: JSON keeps it, so that it may lie beside a checkpoint.

  Args:
    record: of the evaluation before; {} at first.
    step: of this evaluation.
    values: what it measured: accuracies `overfitting/several/K` and `overfitting/single/K` of
      each exit K, in [0, 1]; others are left alone.
    drop: least fall of the first rule, in [0, 1]; 0 switches it off.
    gap: least difference of the second; 0 switches it off.
    lost: least share of the third; 0 switches it off.
    stop: whether an alarm ends the run, the weights of the last evaluation without one being kept.

  Returns:
    The record: `last`, what was measured; `best`, the best of each exit; `alarms`, the first one of
    each exit and rule, with its step; `accepted`, the step of the last evaluation without an alarm,
    or None; `stopped`. And the alarms of this evaluation.

  Raises:
    ValueError: a bound outside [0, 1].

  Reference: Wong et al., 2020, "Fast is better than free", https://arxiv.org/abs/2001.03994, and
  its program for the first rule.

  >>> record, _ = judge({}, 1, {"overfitting/several/0": 0.5})
  >>> judge(record, 2, {"overfitting/several/0": 0.25})[1]
  [Alarm(exit=0, rule='drop', fall=0.25, accuracy=0.25)]
  """
  check_flag(stop=stop)
  for option, bound in ((DROP, drop), (GAP, gap), (LOST, lost)):
    if not 0 <= bound <= 1:
      raise ValueError(f"{option}={bound}: expected a difference of accuracies, 0 (off) to 1")
  last, best = dict(record.get("last") or {}), dict(record.get("best") or {})
  alarms = []
  for name in sorted(name for name in values if name.startswith(f"{SEVERAL}/")):
    exit_ = name.removeprefix(f"{SEVERAL}/")
    now, before = values[name], best.get(name)
    compared = (
      (DROP, drop, last.get(name)),
      (GAP, gap, values.get(f"{SINGLE}/{exit_}")),
      (LOST, lost * (before or 0.0), before),
    )
    for rule, bound, other in compared:
      if bound and other is not None and not other - now <= bound:
        alarms.append(Alarm(int(exit_), rule, other - now, now))
    best[name] = float(now if before is None or now > before else before)
  alarms.sort()
  kept = [dict(each) for each in record.get("alarms", ())]
  known = {(each["exit"], each["rule"]) for each in kept}
  kept += [{"step": step, **_plain(each)} for each in alarms if (each.exit, each.rule) not in known]
  return {
    "last": {n: float(v) for n, v in values.items() if n.startswith((f"{SEVERAL}/", f"{SINGLE}/"))},
    "best": {name: value for name, value in best.items() if not math.isnan(value)},
    "alarms": kept,
    "accepted": record.get("accepted") if alarms else step,
    "stopped": bool(stop and alarms),
  }, alarms


def _plain(alarm: Alarm) -> dict[str, Any]:
  """An alarm as JSON has it, in which a NaN has no place."""
  return {key: None if _is_nan(value) else value for key, value in alarm._asdict().items()}


def _is_nan(value: Any) -> bool:
  return isinstance(value, float) and math.isnan(value)


def row_of(alarms: list[Alarm]) -> dict[str, float]:
  """The alarms as a row of metrics: `drop/K` and `gap/K`, by how much exit K fell.

  >>> row_of([Alarm(3, "gap", 0.5, 0.1)])
  {'gap/3': 0.5}
  """
  return {f"{alarm.rule}/{alarm.exit}": alarm.fall for alarm in alarms}


def say(alarms: list[Alarm]) -> str:
  """The alarms in words.

  >>> say([Alarm(3, "drop", 0.3, 0.1), Alarm(4, "gap", 0.5, 0.0)])
  'exit 3 fell by 0.3 to 0.1 (drop), exit 4 is 0.5 below FGSM, at 0 (gap)'
  """
  words = {
    DROP: "fell by {:.3g} to {:.3g}",
    GAP: "is {:.3g} below FGSM, at {:.3g}",
    LOST: "lies {:.3g} below its best, at {:.3g}",
  }
  return ", ".join(
    f"exit {a.exit} {words[a.rule].format(a.fall, a.accuracy)} ({a.rule})" for a in alarms
  )
