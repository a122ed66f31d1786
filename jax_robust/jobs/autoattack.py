"""The AutoAttack job: one workdir, one net, one radius or several; it resumes at the last chunk."""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import attacks
from jax_robust.attacks import versions
from jax_robust.errors import ConfigError, WorkdirError
from jax_robust.evaluate import attack_plots, tables
from jax_robust.jobs.evaluate import load_net
from jax_robust.runs import build, check, chunks, devices, workdir
from jax_robust.runs.blocks import block, from_config, read_piece
from jax_robust.train import metrics, parallel, state


def autoattack(config: Any, folder: str) -> dict[str, Any]:
  """Evaluates weights by AutoAttack (or AA+MT) in chunks, at every eps; resumes, and shards."""
  check.check(config)
  options = read_options(config)
  with workdir.claimed(folder, create=bool(config.init_from)) as path:
    workdir.write_identity(path, config)
    source = build.eval_source(
      build.load_split(config, config.data.test_split), config.evaluation.num_examples
    )
    net, params, model_state, info = load_net(config, path, source)
    evaluate, predict = _make_evaluate(config, options, net, params, model_state)
    common = {
      "version": options["version"],
      "norm": config.evaluation.attack.norm,
      "seed": config.seed,
      "chunk_size": options["chunk_size"],
      "data": config.data.name,
      "split": config.data.test_split,
      "num_examples": source.num_examples,
      "weights_sha256": info["sha256"],
      "precision": config.evaluation.precision,
      **chunks.sha256_of(source),
    }
    found, main_eps = {}, float(config.evaluation.attack.eps)
    for eps in sorted({*map(float, config.evaluation.eps_list), main_eps}):
      identity = {**common, "eps": eps}
      place = path / "results" / folder_of(common["norm"], eps)
      chunks.claim(place, identity)
      _fill(place, identity, options, source, evaluate, predict)
      found[eps] = identity, list(chunks.read(place))
    return write_summary(path, config.model.name, found, main_eps=main_eps)


def read_options(config: Any) -> dict[str, Any]:
  """The block `autoattack`, checked.

  Raises:
    ConfigError: a value that can't be used.
  """
  options = block(config, "autoattack")
  read_piece("autoattack.shard", options["shard"])
  if options["chunk_size"] < 1:
    raise ConfigError(f"autoattack.chunk_size={options['chunk_size']}: expected 1 or more images")
  if jax.process_count() > 1:
    raise ConfigError(
      f"job=autoattack with {jax.process_count()} processes: run pieces instead, each a job of its "
      "own with --config.autoattack.shard=I/N, and put them together with job=merge"
    )
  options["version"] = _version(options["version"])
  with from_config("autoattack"):
    attacks.make_stages(options["version"], config.evaluation.attack.norm)
  return options


def _version(text: str) -> str | tuple[str, ...]:
  """The name of a version, or the names of attacks as the command line gives them."""
  if "," in text or text in versions.ATTACKS:
    return tuple(name.strip() for name in text.split(",") if name.strip())
  return text


def folder_of(norm: str, eps: float) -> str:
  """Where the chunks of one radius are, inside `results`."""
  return f"autoattack_{norm}_{eps:.6g}"


def _make_evaluate(config, options, net, params, model_state) -> tuple[Callable, Callable]:
  """`evaluate(x, labels, rng, ball=…, …) -> AutoAttackResult`, compiled once for all chunks and
  radii, and `predict(x) -> logits` on the host.
  """
  batch_size = parallel.padded_batch_size(config.evaluation.batch_size, options["chunk_size"])
  mesh = parallel.data_mesh(batch_size)
  params, model_state = parallel.replicate((params, model_state), mesh)
  apply_fn = state.make_apply_fn(net)

  def logits_fn(x):
    return apply_fn(params, model_state, x, train=False)[0]

  run = attacks.make_autoattack(
    logits_fn,
    norm=config.evaluation.attack.norm,
    version=options["version"],
    batch_size=batch_size,
    devices=devices.row_devices(mesh, mode=config.parallel),
  )

  def evaluate(*args, **options):
    # The attacks' precision; what they claim is looked at in the highest one all the same.
    with jax.default_matmul_precision(config.evaluation.precision):
      return run(*args, **options)

  apply = jax.jit(lambda params, model_state, x: apply_fn(params, model_state, x, train=False)[0])
  return evaluate, functools.partial(apply, params, model_state)


def _fill(place, identity, options, source, evaluate, predict) -> None:
  """Evaluates those chunks of this job's share that are not there."""
  piece, num_pieces = read_piece("autoattack.shard", options["shard"])
  starts = list(chunks.starts_of(identity))[piece::num_pieces]
  missing = [start for start in starts if not chunks.path_of(place, start).exists()]
  if len(missing) < len(starts):
    metrics.report(f"{len(starts) - len(missing)} of {len(starts)} chunks are there: resuming")
  ball = attacks.BALLS[identity["norm"]](identity["eps"])
  rng = jax.random.key(identity["seed"])
  began = time.monotonic()
  for done, start in enumerate(missing, 1):
    ids = np.arange(start, min(start + identity["chunk_size"], source.num_examples))
    images, labels = source.read(ids)
    x, labels = images.astype(np.float32) / np.float32(255), np.asarray(labels)
    # The net is looked at once, by the piece's first chunk, whether this start or an earlier one.
    result = evaluate(
      x, labels, rng, ball=ball, ids=ids, check=start == starts[0], report=metrics.report
    )
    columns = {"id": ids, "label": labels, "distance": np.asarray(ball.distance(result.x_adv, x))}
    if options["save_examples"]:
      columns["x_adv"] = result.x_adv
    hardest = _hardest(result, x, labels, predict)
    chunks.write(chunks.path_of(place, start), result, columns, hardest)
    left = (time.monotonic() - began) / done * (len(missing) - done)
    metrics.report(
      f"eps {identity['eps']:.4g}  chunk {done}/{len(missing)}  images {ids[0]} to {ids[-1]}  "
      f"robust {result.robust.mean():.2%}  eta {metrics.clock(left)}"
    )


def _hardest(result, x, labels, predict) -> dict[str, np.ndarray]:
  """The images of a chunk that resisted longest."""
  difficulty = chunks.difficulty(result)
  best = np.argsort(-difficulty, kind="stable")[: chunks.PICTURED]
  probs = [np.asarray(jax.nn.softmax(predict(jnp.asarray(z[best])))) for z in (x, result.x_adv)]
  fields = attack_plots.Example(x[best], result.x_adv[best], labels[best], *probs)
  return {**fields._asdict(), "difficulty": difficulty[best]}


def write_summary(
  path: pathlib.Path,
  name: str,
  found: Mapping[float, tuple[Mapping[str, Any], Sequence[Mapping[str, np.ndarray]]]],
  *,
  main_eps: float,
) -> dict[str, Any]:
  """Writes `results/autoattack.json` and its picture, and prints the table.

  Args:
    path: the workdir.
    name: of the net.
    found: by radius, the identity and the chunks of its evaluation.
    main_eps: the radius whose numbers are the headline.
  """
  empty = [f"{eps:.4g}" for eps, (_, pieces) in found.items() if not pieces]
  if empty:
    raise WorkdirError(f"{path}: no chunk was evaluated at eps {', '.join(empty)}")
  each = {eps: chunks.summarise(pieces, identity) for eps, (identity, pieces) in found.items()}
  main = each[main_eps]
  curve = _curve(each)
  workdir.write_result(
    path,
    "autoattack",
    {
      **{key: main[key] for key in ("clean", "clean_interval", "robust", "robust_interval", "eps")},
      "curve": [
        {"eps": eps, "robust": value, "interval": [low, high]}
        for eps, value, low, high in zip(*curve, strict=True)
      ],
      "evaluations": list(each.values()),
    },
  )
  attack_plots.draw_evaluation(
    path / "results" / "autoattack.png",
    {name: chunks.hardest(found[main_eps][1])},
    {name: curve},
    eps=main_eps,
    norm=main["norm"],
  )
  rows = [
    {"eps": f"{eps:.4g}", "clean": r["clean"], **r["robust_after"]} for eps, r in each.items()
  ]
  print(tables.markdown_table(rows))
  print(f"numbers: {path / 'results' / 'autoattack.json'}")
  print(f"picture: {path / 'results' / 'autoattack.png'}")
  return main


def _curve(each: Mapping[float, Mapping[str, Any]]) -> attack_plots.Curve:
  """Accuracy against eps; without an attack it is the clean one."""
  first = next(iter(each.values()))
  points = {0.0: (first["clean"], *first["clean_interval"])}
  points |= {eps: (result["robust"], *result["robust_interval"]) for eps, result in each.items()}
  return attack_plots.Curve(
    list(points), *(list(row) for row in zip(*points.values(), strict=True))
  )
