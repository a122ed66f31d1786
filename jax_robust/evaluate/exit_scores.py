"""Robust accuracy under each rule of decision, by the points of `exit_attacks`; masked gradients.

An image is robust under a rule if the rule classifies it correctly as it is, and every point of
every attack and aim that was found in the ball: points made for one rule count under all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_robust.evaluate import tables
from jax_robust.evaluate.exit_attacks import APART, FIRST_ORDER, TWICE, is_counted
from jax_robust.evaluate.intervals import binomial_interval, summarise

GRADIENT_FREE = "square"

_FEWEST = 5  # images left, below which it says nothing that twice the radius breaks no more


def robust_under(clean: np.ndarray, correct: Mapping[str, np.ndarray]) -> np.ndarray:
  """Whether images resist all points, under each rule `[n, rules]`.

  Args:
    clean: `[n, rules]`, which rules classify the images correctly as they are.
    correct: the same of each point, by its name.

  >>> clean = np.array([[True, True]])
  >>> robust_under(clean, {"a": np.array([[True, False]])}).tolist()
  [[True, False]]
  """
  return np.logical_and.reduce([clean, *correct.values()])


def summarise_points(
  rules: Sequence[str], clean: np.ndarray, correct: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """The honest table: robust accuracy by rule, overall, by attack, and by attack and aim.

  Returns:
    `clean` and `robust` with their intervals, `attacks` the worst case of each, `aims` that of each
    aim, `points` each by itself, `apart` what belongs to no eps; all by rule.
  """
  counted = {name: flags for name, flags in correct.items() if is_counted(name)}

  def shares(some):
    return dict(zip(rules, robust_under(clean, some).mean(axis=0).tolist(), strict=True))

  def by_part(place):
    parts = dict.fromkeys(name.split(", ")[place] for name in counted)
    return {
      part: shares({n: f for n, f in counted.items() if n.split(", ")[place] == part})
      for part in parts
    }

  found = {}
  for name, flags in (("clean", clean), ("robust", robust_under(clean, counted))):
    summary = summarise(dict(zip(rules, flags.T, strict=True)))
    found[name] = {
      rule: {"value": summary[rule], "interval": summary[f"{rule}_interval"]} for rule in rules
    }
  return {
    **found,
    "attacks": by_part(0),
    "aims": by_part(1),
    "points": {name: shares({name: flags}) for name, flags in counted.items()},
    "apart": {n: shares({n: f}) for n, f in correct.items() if n.split(", ")[0] in APART},
    "checks": {n: shares({n: f}) for n, f in correct.items() if TWICE in n},
  }


def find_flags(
  rules: Sequence[str], clean: np.ndarray, correct: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
  """Signs that gradients are masked under a rule, with the numbers.

  The measure is the strongest gradient attack that is aimed at the rule itself, and the 95 %
  interval of the share of images that it leaves. A flag is raised where

  - `gradient_free`: Square, aimed at the rule, leaves fewer than the interval;
  - `transfer`: points of a gradient attack with another aim do;
  - `one_step`: FGSM, aimed at the rule, leaves fewer than PGD's interval;
  - `more_steps`: 100 steps leave more images than the interval of 20;
  - `larger_eps`: the attack breaks no more at twice the radius, though five or more are left.

  Args: those of `summarise_points`.

  Returns:
    A dict for each flag: `kind`, `rule`, `attack`, `left`, `against`, `left_against`, `interval`.
  """
  total = len(clean)
  left = {
    (name.split(", ")[0], name.split(", ")[1], rule): int((clean & flags)[:, column].sum())
    for name, flags in correct.items()
    for column, rule in enumerate(rules)
  }
  found = []

  def flag(kind, rule, attack, against, is_raised):
    count, reference = left.get((*attack, rule)), left.get((*against, rule))
    if count is None or reference is None:
      return
    interval = binomial_interval(reference, total)
    if is_raised(count, reference, interval):
      found.append({
        "kind": kind, "rule": rule, "attack": ", ".join(attack), "left": count / total,
        "against": ", ".join(against), "left_against": interval.value,
        "interval": [interval.low, interval.high],
      })  # fmt: skip

  fewer = lambda count, reference, interval: count / total < interval.low  # noqa: E731
  more = lambda count, reference, interval: count / total > interval.high  # noqa: E731
  no_fewer = lambda count, reference, interval: count >= reference >= _FEWEST  # noqa: E731
  for rule in rules:
    own = {
      key[:2]: n for key, n in left.items() if key[0] in FIRST_ORDER and key[1:] == (rule,) * 2
    }
    if not own:
      continue
    strongest = min(own, key=lambda key: own[key])
    flag("gradient_free", rule, (GRADIENT_FREE, rule), strongest, fewer)
    others = {key[:2]: n for key, n in left.items()
              if key[0] in FIRST_ORDER and key[1] != rule == key[2]}  # fmt: skip
    if others:
      flag("transfer", rule, min(others, key=lambda key: others[key]), strongest, fewer)
    flag("one_step", rule, ("fgsm", rule), ("pgd_20", rule), fewer)
    flag("more_steps", rule, ("pgd_100", rule), ("pgd_20", rule), more)
    for attack, aim in own:
      flag("larger_eps", rule, (f"{attack} {TWICE}", aim), (attack, aim), no_fewer)
  return found


_SAID = {
  "gradient_free": "an attack without gradients breaks more than the gradient attacks aimed there",
  "transfer": "points made for another aim break more than those aimed there",
  "one_step": "one step breaks more than twenty",
  "more_steps": "a hundred steps break fewer than twenty",
  "larger_eps": "twice the radius breaks no more",
}


def markdown(result: Mapping[str, Any]) -> str:
  """The tables of `summarise_points` and the flags as a page."""
  rows = [{"attack": "none", **{rule: each["value"] for rule, each in result["clean"].items()}}]
  rows += [{"attack": name, **shares} for name, shares in result["attacks"].items()]
  rows.append(
    {"attack": "all of these", **{rule: each["value"] for rule, each in result["robust"].items()}}
  )
  lines = [
    f"# Robust accuracy of {result['num_examples']} images, l-infinity, eps {result['eps']:.4g}",
    "",
    "By rule of decision, each attack with all its aims. An image is robust under a rule if all",
    "points that were found, whatever they were aimed at, and the image itself are classified",
    "correctly.",
    "", tables.markdown_table(rows), "",
    "By what was aimed at, all attacks together:", "",
    tables.markdown_table([{"aim": aim, **shares} for aim, shares in result["aims"].items()]), "",
  ]  # fmt: skip
  if result["apart"]:
    rows = [{"attack": name, **shares} for name, shares in result["apart"].items()]
    moved = f"{result['apart_distance']:.3g}"
    lines += [
      "Apart and not counted above, since they belong to no eps (l2, one weight of the distance,",
      f"median distance of what was moved {moved}):", "", tables.markdown_table(rows), "",
    ]  # fmt: skip
  if not result["flags"]:
    return "\n".join([*lines, "No sign of masked gradients."])
  lines += ["Signs of masked gradients:", ""]
  for each in result["flags"]:
    low, high = each["interval"]
    lines.append(
      f"- {each['rule']}: {_SAID[each['kind']]} ({each['attack']} leaves {each['left']:.3f}, "
      f"{each['against']} {each['left_against']:.3f}, 95 % interval {low:.3f} to {high:.3f})"
    )
  return "\n".join(lines)
