"""The space that images are compared in: the features of a trained net, or those of LPIPS."""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.atomic import read_bytes
from jax_robust.data.evaluation import as_floats
from jax_robust.data.sources import Source
from jax_robust.errors import ConfigError, near_path
from jax_robust.image_sets import lpips
from jax_robust.models.representation import representation
from jax_robust.runs import devices, identity, nets, pieces


class Space(NamedTuple):
  """A space of features.

  Attributes:
    features_fn: `(variables, images of 0 to 255) -> [b, d]`.
    variables: weights, as arguments of a compiled program.
    info: what it is, for results and identities: `space`, `weights_sha256`, `projection`,
      `precision`.
  """

  features_fn: Callable[[Any, Any], jax.Array]
  variables: Any
  info: dict[str, Any]


def open_space(config: Any, reference: str, source: Source, *, projection: int, key: str) -> Space:
  """The space that a workdir or a file of weights stands for.

  Args:
    config: says precision and seed.
    reference: workdir of a run, whose net's last layer reads the features; or an npz with weights
      of LPIPS (`image_sets.lpips`).
    source: images like those that are compared.
    projection: features that are kept by a random projection; 0 for all.
    key: of the config that names the reference, for messages.

  Raises:
    ConfigError: there is no such run or file, or it is of other images.
    DataFileError: the file holds no weights of LPIPS.
  """
  place = pathlib.Path(reference)
  if not place.exists():
    raise ConfigError(
      f"config.{key}={reference!r}: there is no such workdir or file{near_path(place)}"
    )
  opened = _open_net if place.is_dir() else _open_lpips
  space = opened(reference, source, key)
  precision, seed = config.evaluation.precision, config.seed

  def features_fn(variables, images):
    x = as_floats(images)
    with nets.in_precision(precision):
      found = space.features_fn(variables, x)
    if projection:
      found = lpips.project(found, num_features=projection, seed=seed)
    return found.astype(jnp.float32)

  told = {"projection": projection, **({"projection_seed": seed} if projection else {})}
  return Space(features_fn, space.variables, {**space.info, **told, "precision": precision})


def _open_net(reference: str, source: Source, key: str) -> Space:
  """What the last layer of a run's net reads."""
  theirs, opened = nets.open_run(reference, source, key=key)
  features_fn = functools.partial(_of_net, opened.net)
  told = f"what the last layer of {theirs.model.name} reads, trained on {theirs.data.name}"
  info = {"space": f"{told}; not LPIPS", "weights_sha256": opened.info["sha256"]}
  return Space(features_fn, opened.variables, info)


def _of_net(net, variables, x):
  """The representation under weights that are traced."""
  params, model_state = variables
  return representation(net, {"params": params, **model_state}, x)


def _open_lpips(reference: str, source: Source, key: str) -> Space:
  """The features of LPIPS."""
  weights = lpips.read_weights(reference)
  sha256 = hashlib.sha256(read_bytes(pathlib.Path(reference))).hexdigest()

  def features_fn(arrays, x):
    return lpips.features(lpips.Weights(weights.trunk, *arrays), x)

  info = {"space": f"LPIPS of {weights.trunk}", "weights_sha256": sha256}
  return Space(features_fn, weights[1:], info)


def compute(
  space: Space, sources: dict[str, Source], folder: pathlib.Path, *, config: Any
) -> dict[str, np.ndarray] | None:
  """The features of several sets, float32 `[n, d]` each, each image once, whatever stops the job.

  Args:
    space: of `open_space`.
    sources: the sets by name.
    folder: the workdir; the features of a set are kept in `results/complementarity_NAME`.
    config: says the devices, and how many images are a piece.

  Returns:
    The features by name; None in a process that only computes its share.

  Raises:
    WorkdirError: a folder holds features of other images or of another net.
  """
  spread = devices.local_devices(config.parallel)
  size = config.evaluation.batch_size
  program = spread.compile_fn(lambda variables, rows: space.features_fn(variables, rows["image"]))
  variables = spread.share(space.variables)
  stores: dict[str, pieces.Arrays] = {}
  for name, source in sources.items():
    belongs_to = {**space.info, **identity.sha256_of(source), "chunk_size": size}
    store = stores[name] = pieces.Arrays(
      folder / "results" / f"complementarity_{name}", belongs_to, range(source.num_examples),
      share=pieces.share_of("complementarity", "0/1"), size=size, name=name,
    )  # fmt: skip
    for ids in store.missing():
      rows = {"image": source.read(ids)[0]}
      found = devices.run_filled(spread, program, variables, rows, size=size)
      store.write({"id": ids, "features": found})
  if not pieces.wait(list(stores.values())):
    return None
  return {name: _read(store.folder) for name, store in stores.items()}


def _read(folder: pathlib.Path) -> np.ndarray:
  """All features of a set."""
  return np.concatenate([each["features"] for each in pieces.find([folder]).contents()])
