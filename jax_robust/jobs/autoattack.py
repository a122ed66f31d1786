"""The AutoAttack job: one model, one radius or several, in pieces that resume, shard and merge."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import attacks, smoothing
from jax_robust.data.evaluation import as_floats
from jax_robust.errors import ConfigError, WorkdirError, check_count
from jax_robust.evaluate import attack_plots, intervals, robustbench, tables
from jax_robust.runs import build, devices, identity, nets, pieces, weights, workdir
from jax_robust.runs.blocks import block, from_config
from jax_robust.runs.evaluation import autoattack_ball
from jax_robust.train import metrics, parallel

PER_IMAGE = ("clean", "robust", "pred", "pred_adv", "num_forward", "num_backward")
"""Fields of an `AutoAttackResult` that a piece keeps, besides `after/STAGE` for every stage."""


def autoattack(config: Any, path: pathlib.Path, subject: nets.Opened) -> dict[str, Any]:
  """Evaluates weights by AutoAttack (or AA+MT) in pieces, at every eps; resumes, and shards."""
  norm, main_eps = autoattack_ball(config)
  options = read_options(config, norm)
  share = pieces.share_of("autoattack.shard", options["shard"])
  source, net, params, model_state, info = subject
  evaluate, predict = _make_evaluate(config, options, norm, net, params, model_state)
  common = {
    "version": options["version"],
    "norm": norm,
    "seed": config.seed,
    "chunk_size": options["chunk_size"],
    "data": config.data.name,
    "split": config.data.test_split,
    "num_examples": source.num_examples,
    "weights_sha256": info["sha256"],
    "precision": config.evaluation.precision,
    **nets.noted_exit(config),
    **identity.sha256_of(source),
  }
  stores = []
  for eps in sorted({*map(float, config.evaluation.eps_list), main_eps}):
    store = pieces.Arrays(
      path / "results" / f"autoattack_{common['norm']}_{eps:.6g}",
      {**common, "eps": eps},
      range(source.num_examples),
      share=share,
      size=options["chunk_size"],
      name=f"eps {eps:.4g}",
    )
    if options["save_examples"]:
      tell_of_examples(store)
    _fill(store, options, source, evaluate, predict)
    stores.append(store)
  folders = [store.folder for store in stores]
  return write_results(config, path, folders) if pieces.wait(stores) else {}


def check(config: Any) -> None:
  """Raises ConfigError where a value of the block `autoattack` can't be used."""
  options = read_options(config, autoattack_ball(config)[0])
  pieces.share_of("autoattack.shard", options["shard"])


def read_options(config: Any, norm: str) -> dict[str, Any]:
  """The block `autoattack`, checked.

  Raises:
    ConfigError: a value that can't be used.
  """
  options = block(config, "autoattack")
  options["version"] = attacks.read_version(options["version"])
  with from_config("autoattack"):
    check_count(chunk_size=options["chunk_size"])
    attacks.make_stages(options["version"], norm)
  return options


def _make_evaluate(config, options, norm, net, params, model_state) -> tuple[Callable, Callable]:
  """`evaluate(x, labels, rng, ball=…, …) -> AutoAttackResult`, compiled once for all pieces and
  radii, and `predict(x) -> logits` on the host.
  """
  spread = devices.local_devices(config.parallel)
  params, model_state = spread.share((params, model_state))
  make = functools.partial(nets.make_logits_fn, config, net)
  run = attacks.make_autoattack(
    make(params, model_state),
    norm=norm,
    version=options["version"],
    batch_size=parallel.padded_batch_size(config.evaluation.batch_size, options["chunk_size"]),
    devices=spread,
  )

  def evaluate(*args, **options):
    # The attacks' precision; what they find is confirmed in the highest one all the same.
    with jax.default_matmul_precision(config.evaluation.precision):
      return run(*args, **options)

  # The weights are arguments, lest the program hold a copy of them.
  predict = jax.jit(lambda weights, x: make(*weights)(x))
  return evaluate, functools.partial(predict, (params, model_state))


def _fill(store: pieces.Arrays, options, source, evaluate, predict) -> None:
  """Evaluates the images of this share that are in no piece."""
  ball = attacks.BALLS[store.identity["norm"]](store.identity["eps"])
  rng = jax.random.key(store.identity["seed"])
  for ids in store.missing():
    images, labels = source.read(ids)
    x, labels = as_floats(images), np.asarray(labels)
    is_first = ids[0] == min(store.job_ids)  # the guards look at the model once a share
    result = evaluate(x, labels, rng, ball=ball, ids=ids, check=is_first, report=metrics.report)
    content = {name: getattr(result, name) for name in PER_IMAGE}
    content |= {f"after/{name}": flags for name, flags in result.robust_after.items()}
    content |= {"id": ids, "label": labels, "distance": _distance(ball, result.x_adv, x)}
    hardest = _hardest_if_possible(result, x, labels, predict)
    content |= {f"hardest/{name}": values for name, values in hardest.items()}
    content["rejected"] = np.asarray(sum(result.rejected.values()))
    content["warnings"] = np.asarray(result.warnings, dtype=np.str_)
    if options["save_examples"]:
      content["x_adv"] = result.x_adv
    robust = result.robust.mean()
    store.write(content, note=lambda robust=robust: f"robust {robust:.2%} of the last piece")


def tell_of_examples(store: pieces.Arrays) -> None:
  """Says so where pieces that are there were made without saving the adversarial examples."""
  lacking = 0
  for piece in pieces.find([store.folder]).pieces:
    if piece.held:
      with np.load(piece.path, allow_pickle=False) as file:  # names alone are read
        lacking += "x_adv" not in file.files
  if lacking:
    metrics.report(
      f"{store.folder}: {lacking} pieces that are there hold no adversarial examples, and "
      "save_examples=true is for new ones: move the folder away to have those of all images"
    )


def _check_labels(work: pieces.Work, chunks: Sequence[Mapping[str, np.ndarray]]) -> None:
  """Raises WorkdirError where the labels of an evaluation that is complete are not its data's."""
  expected = work.identity.get("labels_sha256")
  if not expected or work.num_missing:
    return
  if smoothing.digest_labels(np.concatenate([chunk["label"] for chunk in chunks])) != expected:
    raise WorkdirError(
      f"{work.pieces[0].path.parent}: the labels are not those of the images that identity.json "
      "says they are of (labels_sha256): move the folder away"
    )


_OUT_OF_MEMORY = (MemoryError, jax.errors.JaxRuntimeError)


def _distance(ball: attacks.Ball, x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
  """How far images were moved `[b]`; one after the other where all at once take too much memory."""
  try:
    return np.asarray(ball.distance(jnp.asarray(x_adv), jnp.asarray(x)))
  except _OUT_OF_MEMORY:
    each = (slice(i, i + 1) for i in range(len(x)))
    return np.concatenate([ball.distance(jnp.asarray(x_adv[i]), jnp.asarray(x[i])) for i in each])


def _hardest_if_possible(result, x, labels, predict) -> dict[str, np.ndarray]:
  """`_hardest`; of no image where that fails, since a picture is not worth what was found."""
  try:
    return _hardest(result, x, labels, predict)
  except _OUT_OF_MEMORY as error:
    metrics.report(f"no pictures of this piece, whose results are kept: {str(error)[:200]}")
    none = np.zeros(0, np.float32)
    fields = attack_plots.Example(x[:0], result.x_adv[:0], labels[:0], none, none)
    return {**fields._asdict(), "difficulty": none}


def _hardest(result, x, labels, predict) -> dict[str, np.ndarray]:
  """The images of a piece that resisted longest: fields of `attack_plots.Example`, and difficulty.

  The difficulty counts the stages until an image was broken, then the passes; it is 0 for one that
  was wrong from the start, or never broken.
  """
  stage = np.sum(list(result.robust_after.values()), axis=0)
  passes = result.num_forward + result.num_backward
  difficulty = stage + passes / (passes.max() + 1.0) + 1.0
  difficulty = np.where(result.clean & ~result.robust, difficulty, 0.0)
  best = np.argsort(-difficulty, kind="stable")[: attack_plots.PICTURED]
  probs = [np.asarray(jax.nn.softmax(predict(jnp.asarray(z[best])))) for z in (x, result.x_adv)]
  fields = attack_plots.Example(x[best], result.x_adv[best], labels[best], *probs)
  return {**fields._asdict(), "difficulty": difficulty[best]}


def write_results(
  config: Any, path: pathlib.Path, folders: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Writes `results/autoattack.json` and its picture, and prints the table.

  Args:
    config: whose autoattack.eps, or else the attack of its evals, names the radius of the headline.
    path: the workdir.
    folders: of the pieces, one for each radius.
  """
  found = {work.identity["eps"]: work for work in map(lambda f: pieces.find([f]), folders)}
  chunks = {eps: list(found[eps].contents(without=["x_adv"])) for eps in sorted(found)}
  for eps, work in found.items():
    _check_labels(work, chunks[eps])
  empty = [f"{eps:.4g}" for eps, rows in chunks.items() if not rows]
  if empty:
    raise WorkdirError(f"{path}: no piece was evaluated at eps {', '.join(empty)}")
  main_eps = autoattack_ball(config)[1]
  if main_eps not in chunks:
    there = ", ".join(f"{eps:.6g}" for eps in chunks)
    raise ConfigError(f"config.autoattack.eps={main_eps:.6g}: the pieces were evaluated at {there}")
  each = {eps: _summarise(rows, found[eps].identity) for eps, rows in chunks.items()}
  main = each[main_eps]
  points = {0.0: (main["clean"], *main["clean_interval"])}  # without an attack
  points |= {eps: (result["robust"], *result["robust_interval"]) for eps, result in each.items()}
  curve = attack_plots.Curve(list(points), *map(list, zip(*points.values(), strict=True)))
  result = {
    **{key: main[key] for key in ("clean", "clean_interval", "robust", "robust_interval", "eps")},
    "curve": [
      {"eps": eps, "robust": value, "interval": [low, high]}
      for eps, (value, low, high) in points.items()
    ],
    "evaluations": list(each.values()),
  }
  if names := weights.noted_names(config, path):
    result["class_names"] = list(names)
  workdir.write_result(path, "autoattack", result)
  workdir.write_result(path, "robustbench", _robustbench(config, path, main))
  name, place = config.model.name, path / "results"
  rows = [
    {"eps": f"{eps:.4g}", "clean": r["clean"], **r["robust_after"]} for eps, r in each.items()
  ]
  print(tables.markdown_table(rows))
  print(f"numbers: {place / 'autoattack.json'}")
  examples = _hardest_of_all(chunks[main_eps])
  if examples:
    picture = place / "autoattack.png"
    attack_plots.draw_evaluation(
      picture, {name: examples}, {name: curve}, eps=main_eps, norm=main["norm"], class_names=names
    )
    print(f"picture: {picture}")
  return main


def _robustbench(config: Any, path: pathlib.Path, main: Mapping[str, Any]) -> dict[str, Any]:
  """The evaluation as RobustBench would list it, and whether it could stand there."""
  net = build.model(config, 1)
  fields = {key: getattr(net, key) for key in ("depth", "width") if hasattr(net, key)}
  entry = robustbench.entry(
    main,
    {"name": config.model.name, **fields},
    trained_here=not config.init_from and (path / "checkpoints").exists(),
    generated=bool(config.generated.path) and config.batch.original_share < 1,
  )
  verdict = robustbench.comparable(main)
  print(f"comparable with the leaderboard of RobustBench: {verdict}")
  return {
    "comparable with the leaderboard": verdict,
    "folder": robustbench.folder(main),
    "entry": entry,
  }


def _hardest_of_all(chunks: Sequence[Mapping[str, np.ndarray]]) -> list[attack_plots.Example]:
  """Of all images that were broken those which resisted longest."""
  names = [f"hardest/{name}" for name in ("difficulty", *attack_plots.Example._fields)]
  chunks = [chunk for chunk in chunks if len(chunk["hardest/difficulty"])]
  if not chunks:
    return []
  ranks, *fields = (np.concatenate([chunk[name] for chunk in chunks]) for name in names)
  best = np.argsort(-ranks, kind="stable")[: attack_plots.PICTURED]
  return [attack_plots.Example(*(field[i] for field in fields)) for i in best]


def _summarise(
  chunks: Sequence[Mapping[str, np.ndarray]], identity: Mapping[str, Any]
) -> dict[str, Any]:
  """An evaluation in numbers, and its flags, of the pieces that are there."""
  after = [name for name in chunks[0] if name.startswith("after/")]
  names = ("id", "label", "distance", *PER_IMAGE, *after)
  columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}
  num_evaluated = len(columns["id"])
  return {
    **identity,
    **intervals.summarise({name: columns[name] for name in ("clean", "robust")}),
    "num_examples": num_evaluated,
    "complete": num_evaluated == identity["num_examples"],
    "robust_after": {name.removeprefix("after/"): float(columns[name].mean()) for name in after},
    "max_distance": float(columns["distance"].max()),
    "forward_per_image": float(columns["num_forward"].mean()),
    "backward_per_image": float(columns["num_backward"].mean()),
    "rejected": int(sum(chunk["rejected"] for chunk in chunks)),
    "warnings": sorted({str(line) for chunk in chunks for line in chunk["warnings"]}),
    "flags": {
      name: columns[name].astype(int).tolist()
      for name in ("id", "label", "pred", "pred_adv", "clean", "robust", *after)
    },
  }
