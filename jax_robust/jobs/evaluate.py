"""The evaluation job: what `config.evals` measures of trained weights on the test split."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_robust.evaluate import attack_plots, intervals, scoring, tables
from jax_robust.runs import identity, workdir
from jax_robust.runs.evaluation import attack_setting, make_score
from jax_robust.runs.nets import Opened
from jax_robust.train import metrics


class Evaluation(NamedTuple):
  """The numbers for `results/`, and what a picture needs where there is an attack."""

  result: dict[str, Any]
  examples: list[attack_plots.Example]
  curve: attack_plots.Curve | None
  class_names: tuple[str, ...] = ()


def evaluate(config: Any, path: pathlib.Path, subject: Opened) -> dict[str, Any]:
  """Measures config.evals of a run's weights (or init_from's) on test images, at several eps."""
  measured = measure(config, subject)
  if jax.process_index() == 0:  # first what can't fail for want of memory or disk
    print(tables.markdown_table([row_of(config.model.name, measured)]))
    for rows in rows_by_number(measured.result):
      print("\n" + tables.markdown_table(rows))
    per_class = measured.result["per_class"]
    if 0 < len(per_class) <= _FEW_CLASSES:
      print("\n" + tables.markdown_table([{"class": n, **row} for n, row in per_class.items()]))
  workdir.write_result(path, "evaluate", measured.result)
  if jax.process_index() == 0:
    draw(path / "results" / "evaluate.png", {config.model.name: measured})
  return measured.result


def draw(path: pathlib.Path, measured: dict[str, Evaluation]) -> None:
  """Draws attacked evaluations of one or several models into one picture."""
  attacked = {name: each for name, each in measured.items() if each.curve}
  if not attacked:
    return
  first = next(iter(attacked.values()))
  attack_plots.draw_evaluation(
    path,
    {name: each.examples for name, each in attacked.items()},
    {name: each.curve for name, each in attacked.items() if each.curve},
    eps=first.result["eps"],
    norm=first.result["norm"],
    class_names=first.class_names,
  )


_FEW_CLASSES = 10  # a table of more is not read: they are in the result


def row_of(name: str, measured: Evaluation) -> dict[str, Any]:
  """A row of the table: the model, what was measured, and the accuracy at every eps."""
  result = measured.result
  row = {"net": name, **{each: result[each] for each in result["evals"] if "/" not in each}}
  if measured.curve:
    row |= {
      f"at {eps:.3g}": value
      for eps, value in zip(measured.curve.eps, measured.curve.robust, strict=True)
      if eps > 0 and eps != result["eps"]
    }
  return row


def rows_by_number(result: dict[str, Any]) -> list[list[dict[str, Any]]]:
  """Tables of what was measured of each exit or block: a row a name, a column a number.

  >>> rows_by_number({"evals": ["clean", "x/0", "x/1"], "clean": 0.5, "x/0": 0.1, "x/1": 0.2})
  [[{'': 'x', '0': 0.1, '1': 0.2}]]
  """
  rows: dict[str, dict[str, Any]] = {}
  for name in result["evals"]:
    stem, slash, number = name.rpartition("/")
    if slash:
      rows.setdefault(stem, {"": stem})[number] = result[name]
  tables_of: dict[tuple[str, ...], list[dict[str, Any]]] = {}
  for row in rows.values():  # those with the same columns stand in one table
    tables_of.setdefault(tuple(row), []).append(row)
  return list(tables_of.values())


def measure(config, subject: Opened) -> Evaluation:
  """Measures what `config.evals` names, and the curve of its attack over `evaluation.eps_list`."""
  source, net, params, model_state, info = subject
  score, names = make_score(config, net, source)
  setting = attack_setting(config)
  extra = [f"{setting.name}/{column}" for column in EXAMPLE_COLUMNS] if setting else []
  columns = score(params, model_state, [*names, *extra])
  result: dict[str, Any] = intervals.summarise({name: columns[name] for name in names})
  # Such images count as they do without the attack: the accuracy under it is an upper bound.
  result["num_lost"] = {
    name.removesuffix("/lost"): int(columns[name].sum()) for name in scoring.lost(columns)
  }
  result["per_class"] = tables.by_class(
    {name: columns[name] for name in names if "/" not in name},
    columns["label"], source.class_names, source.num_classes,
  )  # fmt: skip
  curve, examples = None, []
  if setting:
    # Without an attack, the curve begins at what the model gets right: the entry `clean`, if any.
    counts = {} if "clean" not in names else {0.0: columns["clean"]}
    for eps in sorted({*map(float, config.evaluation.eps_list), setting.eps}):
      at_eps = columns
      if eps != setting.eps:
        at_eps = score(params, model_state, [setting.name], {setting.name: eps})
      counts[eps] = at_eps[setting.name]
      metrics.report(f"eps {eps:.4g}: {counts[eps].mean():.4f} of {len(counts[eps])} robust")
    points = {e: intervals.binomial_interval(int(c.sum()), len(c)) for e, c in counts.items()}
    curve = attack_plots.Curve(list(points), *map(list, zip(*points.values(), strict=True)))
    examples = _examples(source, columns, setting.name)
    result |= {
      "eps": setting.eps,
      "norm": setting.norm,
      "attack": setting.attack,
      "curve": [
        {"eps": e, "robust": p.value, "interval": [p.low, p.high]} for e, p in points.items()
      ],
    }
  result |= {
    "evals": list(names),
    "exit": config.evaluation.exit,
    "precision": config.evaluation.precision,
    "split": config.data.test_split,
    "weights": info,
    **({"class_names": list(source.class_names)} if source.class_names else {}),
    **identity.sha256_of(source),
  }
  return Evaluation(result, examples, curve, source.class_names)


EXAMPLE_COLUMNS = ("x_adv", "probs", "probs_adv")
"""What a picture shows of an attacked image."""


def _examples(source, columns, name: str) -> list[attack_plots.Example]:
  """The first images of the split, as the evaluator `name` attacked them."""
  images, labels = source.read(columns["id"][: attack_plots.PICTURED])
  x_adv, probs, probs_adv = (columns[f"{name}/{column}"] for column in EXAMPLE_COLUMNS)
  return [
    attack_plots.Example(
      images[i] / np.float32(255), x_adv[i], int(labels[i]), probs[i], probs_adv[i]
    )
    for i in range(len(images))
  ]
