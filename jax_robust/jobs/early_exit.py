"""The early exit job: each exit, ensembles, budgets and thresholds, and the net as deployed."""

import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import attacks
from jax_robust import early_exit as exits_lib
from jax_robust.early_exit import expected_cost
from jax_robust.errors import ConfigError, check_name
from jax_robust.evaluate import evaluators, exit_plots, intervals, tables
from jax_robust.nets.exits import select_exit
from jax_robust.runs import build, exits, identity, nets, slowdowns, workdir
from jax_robust.runs.blocks import from_config
from jax_robust.runs.evaluation import AttackSetting, attack_setting
from jax_robust.train import metrics

AIMS = ("average", "max_average", "mean", "last")
"""What the attack of `evals` may be aimed at here, besides the number of an exit."""

_TIMINGS = 3


def early_exit(config: Any, path: pathlib.Path, subject: nets.Opened) -> dict[str, Any]:
  """Evaluates a multi-exit net: each exit, ensembles, budgets, and the deployed net with its time.

  Thresholds are chosen by held-out images, and written for the weights that they belong to.
  """
  num_exits = exits.count_exits(config, subject)
  predict = exits.make_predict(config, subject)
  thresholds, heldout = exits.find_thresholds(config, subject, predict, num_exits)
  setting, inputs = attack_setting(config), {"clean": None}
  if setting:
    inputs["attacked"] = _make_change(config, subject, setting, num_exits)
  batch_size = min(config.evaluation.batch_size, subject.source.num_examples)
  score = functools.partial(exits.score, predict, subject.source, batch_size=batch_size)
  scored = {name: score(change=change, keep_images=True) for name, change in inputs.items()}
  all_costs = exits.costs_of(subject, num_exits)
  costs = exits.costs_passed(all_costs)
  deployed = _deploy(config, subject, predict, thresholds.values, scored, batch_size)
  at_thresholds = _with_thresholds(scored, thresholds.values, costs)

  slowed = {}
  if setting:
    slowed = slowdowns.measure(
      config, subject, setting, thresholds.values, scored["clean"], score, costs
    )
  result = {
    "weights": subject.info,
    "num_exits": num_exits,
    "costs": all_costs,
    "exits": [_anytime(scored, k, k, all_costs) for k in range(num_exits)],
    "ensembles": [_anytime(scored, f"mean:{k}", k, costs) for k in range(1, num_exits)],
    "budgets": _budgets(scored, heldout, costs),
    "deployed": {
      **thresholds.chosen,
      "thresholds": thresholds.values.tolist(),
      "thresholds_sha256": exits.thresholds_sha256(thresholds.values, subject.info["sha256"]),
      **at_thresholds,
      "timing": deployed,
    },
    "slowdown": slowed,
    **_told_of_attack(config, setting, scored),
    "precision": config.evaluation.precision,
    "split": config.data.test_split,
    "num_examples": subject.source.num_examples,
    **identity.sha256_of(subject.source),
  }
  workdir.write_result(path, "early_exit", result)
  if jax.process_index() == 0:
    _show(path / "results", result)
  return {key: at_thresholds[key] for key in ("clean", "robust") if key in at_thresholds}


def check(config: Any) -> None:
  """Raises ConfigError where a value of the block `early_exit` can't be used by this job."""
  exits.check_heldout(config)
  setting, eps = attack_setting(config), config.early_exit.eps
  slowdowns.check(config, setting)
  if eps and (setting is None or eps != setting.eps):
    there = f"evals.{setting.name}.attack.eps={setting.eps:g}" if setting else "no attack"
    raise ConfigError(
      f"config.early_exit.eps={eps} is for the job exit_attacks, and early_exit attacks as evals "
      f"says, which has {there}: change it there"
    )
  aim = config.early_exit.aim
  if not str(aim).isdecimal():
    with from_config("early_exit"):
      check_name("aim", aim, AIMS)


def _make_change(config, subject: nets.Opened, setting: AttackSetting, num_exits: int):
  """`(x, labels, ids) -> x_adv` of the attack in `evals`, aimed as the block says."""
  aim = str(config.early_exit.aim)
  if aim.isdecimal() and int(aim) >= num_exits:
    raise ConfigError(
      f"config.early_exit.aim={aim}: expected 0 to {num_exits - 1}, the exits of the net"
    )
  attack = build.attack(f"evals.{setting.name}.attack", setting.attack)
  if aim == "max_average":
    attack = attacks.max_average(attack)
  elif aim != "average":
    attack = attacks.aimed(attack, int(aim) if aim.isdecimal() else aim)

  def named(*args):
    with from_config("early_exit.aim"):
      return attack(*args)

  metrics.report(f"attack: {setting.attack['name']}, aim {aim}, {num_exits} exits")
  return exits.make_change(config, subject, named)


def _batches(x: np.ndarray, batch_size: int):
  """Batches of one size, the last one filled up."""
  for start in range(0, len(x), batch_size):
    some = x[start : start + batch_size]
    yield np.concatenate([some, np.repeat(some[:1], batch_size - len(some), axis=0)])


def _told_of_attack(config, setting: AttackSetting | None, scored) -> dict[str, Any]:
  """What the result says of the attack in `evals`."""
  if not setting:
    return {}
  num_lost = scored["attacked"].num_lost
  return {"attack": setting.attack, "aim": config.early_exit.aim, "num_lost": num_lost}


def _correct(scored: exits.Scored, logits: Any) -> np.ndarray:
  """Whether logits `[n, k]` are right."""
  return np.asarray(evaluators.is_correct(jnp.asarray(logits), jnp.asarray(scored.labels)))


def _flags(scored: Mapping[str, exits.Scored], answer) -> dict[str, np.ndarray]:
  """What `answer(outputs) -> logits` gets right: `clean`, and `robust` clean and attacked."""
  correct = {name: _correct(each, answer(each.exits)) for name, each in scored.items()}
  flags = {"clean": correct["clean"]}
  if "attacked" in correct:
    flags["robust"] = correct["clean"] & correct["attacked"]
  return flags


def _anytime(scored, exit, number: int, costs: Mapping[str, Sequence[float]]) -> dict[str, Any]:
  """The accuracy of one exit, or of the ensemble up to it, and what it costs."""
  choose = select_exit(lambda outputs: outputs, exit)
  there = {unit: values[number] for unit, values in costs.items()}
  summary = intervals.summarise(_flags(scored, choose))
  return {"exit": exit, **there, **{k: v for k, v in summary.items() if k != "num_examples"}}


def _with_thresholds(scored, thresholds: np.ndarray, costs) -> dict[str, Any]:
  """The accuracy of a deployed rule; shares of exits and expected costs, clean and attacked."""
  summary = intervals.summarise(
    _flags(scored, lambda outputs: exits_lib.answer(outputs, thresholds)[0])
  )
  found: dict[str, Any] = {key: summary[key] for key in summary if key != "num_examples"}
  for name, each in scored.items():
    taken = np.asarray(exits_lib.first_confident(exits.confidences_of(each), thresholds))
    fractions = exits_lib.exit_fractions(taken, len(each.outputs))
    expected = {unit: expected_cost(fractions, values) for unit, values in costs.items()}
    found[f"{name}_exits"] = {"fractions": fractions.tolist(), "expected": expected}
  return found


def _budgets(scored, heldout: np.ndarray | None, costs) -> list[dict[str, Any]]:
  """Every budget's thresholds, by held-out images, and what they come to on the test images."""
  if heldout is None:
    return []
  found = []
  for entry in exits_lib.sweep(heldout, exits.confidences_of(scored["clean"])):
    row = {"budget": entry.budget, "thresholds": entry.thresholds.tolist()}
    found.append({**row, **_with_thresholds(scored, entry.thresholds, costs)})
  return found


class _Timing(NamedTuple):
  """Seconds of the full net and of the deployed one, and how many exits differ between them."""

  seconds_full: float
  seconds: float
  num_different: int
  rows_per_block: list[int]


def _deploy(config, subject, predict, thresholds, scored, batch_size) -> dict[str, Any]:
  """The deployed net on the images: real seconds against the full net, best of three."""
  if not hasattr(subject.net, "run_block"):
    reason = f"{config.model.name} has no run_block, so no block can be left out"
    metrics.report(f"not deployed: {reason}")
    return {"skipped": reason}
  precision = config.evaluation.precision
  run_block = nets.make_run_block(subject.net, *subject.variables, precision=precision)
  answers = exits_lib.make_deployed(
    run_block, thresholds, num_exits=len(thresholds) + 1, batch_size=batch_size
  )
  decide = jax.jit(lambda outputs: exits_lib.answer(outputs, thresholds))

  def full(x):
    parts = [decide(predict(jnp.asarray(some)))[1] for some in _batches(x, batch_size)]
    return np.concatenate(jax.device_get(parts))[: len(x)]

  found = {}
  for name, each in scored.items():
    seconds_full, taken = _best_of(full, each.images)
    seconds, deployed = _best_of(answers, each.images)
    num_different = int((deployed.taken != taken).sum())
    rows = deployed.num_rows.tolist()
    found[name] = _Timing(seconds_full, seconds, num_different, rows)._asdict()
  return {"batch_size": batch_size, **found}


def _best_of(function, x) -> tuple[float, Any]:
  """The least seconds of several calls, after one that compiles, and what was returned."""
  result, least = function(x), np.inf
  for _ in range(_TIMINGS):
    start = time.perf_counter()
    result = function(x)
    least = min(least, time.perf_counter() - start)
  return least, result


def _show(folder: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Prints the tables, and draws accuracy against expected cost."""
  measured = [name for name in ("clean", "robust") if name in result["deployed"]]
  unit = next(iter(result["costs"]))
  scale, title = (1e6, "Mflops") if unit == "flops" else (1.0, unit)
  deployed = result["deployed"]
  named = [(f"exit {row['exit']}", row[unit], row) for row in result["exits"]]
  named += [(f"mean of exits 0 to {row['exit'][5:]}", row[unit], row)
            for row in result["ensembles"]]  # fmt: skip
  named.append(("the deployed rule", _expected(deployed, "clean", unit), deployed))
  rows = [
    {"answer": name, title: cost / scale, **{measure: row[measure] for measure in measured}}
    for name, cost, row in named
  ]
  print(tables.markdown_table(rows))
  for name, timing in deployed["timing"].items():
    if name in _INPUTS.values():
      print(
        f"{name}: {timing['seconds_full']:.3f} s by the full net, {timing['seconds']:.3f} s as "
        f"deployed; {timing['num_different']} of {result['num_examples']} exits differ"
      )
  picture = folder / "early_exit.png"
  _draw(picture, result, measured, unit, scale)
  print(f"numbers: {folder / 'early_exit.json'}\npicture: {picture}")


_INPUTS = {"clean": "clean", "robust": "attacked"}
"""What a measure is of."""


def _expected(row: Mapping[str, Any], given: str, unit: str) -> float:
  """The expected cost of a rule with thresholds, by clean or attacked inputs."""
  return row[f"{given}_exits"]["expected"][unit]


def _draw(path, result, measured: Sequence[str], unit: str, scale: float) -> None:
  """Draws accuracy against expected cost: budgets as lines, exits and ensembles as points."""
  lines, chosen = {}, []
  for measure in measured:
    given = _INPUTS[measure]
    kinds = {"each exit": result["exits"], "mean of exits": result["ensembles"]}
    lines[given] = {
      kind: exit_plots.Line([row[unit] / scale for row in some], [row[measure] for row in some],
                            joined=False)
      for kind, some in kinds.items()
    }  # fmt: skip
    if budgets := result["budgets"]:
      costs = [_expected(row, given, unit) / scale for row in budgets]
      sweep = exit_plots.Line(costs, [row[measure] for row in budgets], joined=True)
      lines[given]["budgets"] = sweep
    deployed = result["deployed"]
    chosen.append((_expected(deployed, given, unit) / scale, deployed[measure]))
  words = "million multiply-adds, earlier exits included" if unit == "flops" else "exits passed"
  exit_plots.draw_budgets(path, lines, unit=words, chosen=chosen, note="circles: as deployed")
