"""The evaluation job: clean and attacked accuracy of trained weights on the test split."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.data import evaluation
from jax_robust.evaluate import attack_plots, intervals, scoring, tables
from jax_robust.jobs.train import make_scorer, process_shard
from jax_robust.runs import build, check, chunks, workdir
from jax_robust.runs.nets import load_net
from jax_robust.train import metrics, parallel


class Evaluation(NamedTuple):
  """The numbers for `results/`, and what a picture needs."""

  result: dict[str, Any]
  examples: list[attack_plots.Example]
  curve: attack_plots.Curve


def evaluate(config: Any, folder: str) -> dict[str, Any]:
  """Scores a run's weights (or init_from's) on test images, clean and attacked at several eps."""
  check.check(config)
  with workdir.claimed(folder, create=bool(config.init_from)) as path:
    workdir.write_identity(path, config)
    measured = evaluate_weights(config, path)
    workdir.write_result(path, "evaluate", measured.result)
    if jax.process_index() == 0:
      draw(path / "results" / "evaluate.png", config, {config.model.name: measured})
      print(tables.markdown_table([row_of(config.model.name, measured)]))
    return measured.result


def draw(path: pathlib.Path, config, measured: dict[str, Evaluation]) -> None:
  """Draws the evaluations of one or several nets into one picture."""
  path.parent.mkdir(parents=True, exist_ok=True)
  attack_plots.draw_evaluation(
    path,
    {name: each.examples for name, each in measured.items()},
    {name: each.curve for name, each in measured.items()},
    eps=config.evaluation.attack.eps,
    norm=config.evaluation.attack.norm,
  )


def row_of(name: str, measured: Evaluation) -> dict[str, Any]:
  """A row of the table: the net, its accuracy clean and at every eps."""
  row = {"net": name, "clean": measured.result["clean"], "robust": measured.result["robust"]}
  row |= {
    f"at {eps:.3g}": value
    for eps, value in zip(measured.curve.eps, measured.curve.robust, strict=True)
    if eps > 0 and eps != measured.result["eps"]
  }
  return row


def evaluate_weights(config, path: pathlib.Path) -> Evaluation:
  """Attacks the weights of a workdir at every eps of the config."""
  source = build.eval_source(
    build.load_split(config, config.data.test_split), config.evaluation.num_examples
  )
  net, params, model_state, info = load_net(config, path, source)
  batch_size = parallel.padded_batch_size(config.evaluation.batch_size, source.num_examples)
  mesh = parallel.data_mesh(batch_size)
  scorer = make_scorer(config, net, mesh)
  rng = jax.random.key_data(jax.random.key(config.seed))

  def flags_at(eps, names):
    weights = scoring.Weights(params, model_state, jnp.asarray(eps, jnp.float32), rng)
    batches = evaluation.eval_batches(source, batch_size=batch_size, process=process_shard())
    return scoring.score(
      scorer,
      parallel.replicate(weights, mesh),
      batches,
      place=functools.partial(parallel.shard_batch, mesh=mesh),
      names=names,
    )

  eps = float(config.evaluation.attack.eps)
  chosen = flags_at(eps, ("clean", "robust", "x_adv", "probs", "probs_adv"))
  points = {0.0: intervals.binomial_interval(int(chosen["clean"].sum()), len(chosen["clean"]))}
  for other in sorted({*map(float, config.evaluation.eps_list), eps}):
    flags = chosen if other == eps else flags_at(other, ("clean", "robust"))
    points[other] = intervals.binomial_interval(int(flags["robust"].sum()), len(flags["robust"]))
    metrics.report(f"eps {other:.4g}: {points[other].value:.4f} of {len(flags['robust'])} robust")
  curve = attack_plots.Curve(
    list(points), *(list(column) for column in zip(*points.values(), strict=True))
  )
  result = intervals.summarise(chosen) | {
    "eps": eps,
    "norm": config.evaluation.attack.norm,
    "attack": dict(build.block(config.evaluation, "attack")),
    "curve": [
      {"eps": e, "robust": p.value, "interval": [p.low, p.high]} for e, p in points.items()
    ],
    "precision": config.evaluation.precision,
    "split": config.data.test_split,
    "weights": info,
    **chunks.sha256_of(source),
  }
  return Evaluation(result, _examples(source, chosen), curve)


def _examples(source, flags) -> list[attack_plots.Example]:
  """The first images of the split."""
  images, labels = source.read(flags["id"][: chunks.PICTURED])
  return [
    attack_plots.Example(
      images[i] / np.float32(255),
      flags["x_adv"][i],
      int(labels[i]),
      flags["probs"][i],
      flags["probs_adv"][i],
    )
    for i in range(len(images))
  ]
