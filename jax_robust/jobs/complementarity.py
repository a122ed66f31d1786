"""The complementarity job: what candidate sets of images are like beside the real ones."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_robust.errors import ConfigError, check_count
from jax_robust.evaluate import image_set_plots, tables
from jax_robust.image_sets import complementarity as places
from jax_robust.image_sets import distances
from jax_robust.runs import candidates, feature_spaces, identity, progress, workdir
from jax_robust.runs.blocks import check_name, from_config

_KEY = "complementarity"

_CANDIDATES, _FEATURES = f"{_KEY}.candidates", f"{_KEY}.features"

_K = 3
"""Neighbours that make an image's radius, as published for precision and recall."""


def complementarity(config: Any, path: pathlib.Path, checked: Mapping[str, str]) -> dict[str, Any]:
  """Looks where the nearest neighbours of sets of images lie; FID, KID, precision, recall.

  Writes a table, a picture and `results/complementarity.json`. Features are computed once for each
  set and kept in the workdir, so that a start that was killed goes on, and a further candidate
  costs its own features alone.
  """
  options = config.complementarity
  pools = candidates.open_pools(config, checked, size=options.pool_size, key=_CANDIDATES)
  space = feature_spaces.open_space(
    config, options.features, pools.train, projection=options.projection, key=_FEATURES
  )
  sources = {"train": pools.train, "test": pools.test, **pools.candidates}
  features = feature_spaces.compute(space, sources, path, config=config)
  if features is None:
    return {"complete": True}  # by the first process
  found: dict[str, dict[str, Any]] = {}
  line = progress.ProgressLine("compared", len(checked), unit="sets")
  for name, origin in checked.items():
    numbers = _measure(features[name], features["train"], features["test"], seed=config.seed)
    found[name] = {"origin": origin, **identity.sha256_of(pools.candidates[name]), **numbers}
    line.add()
  shares = _compare(found, options.reference)
  result = {
    "features": space.info,
    "num_features": features["train"].shape[1],
    "pool_size": pools.size,
    "cut_by": pools.cut_by,
    "seed": config.seed,
    "data": config.data.name,
    "reference": options.reference,
    "compared_with": "test",
    "k": _K,
    "candidates": found,
  }
  print(f"features: {space.info['space']}; {pools.size} images a set; distances to test")
  print(tables.markdown_table([_row(name, each) for name, each in found.items()]))
  workdir.write_result(path, "complementarity", result)
  place = path / "results" / f"{_KEY}.png"
  image_set_plots.draw_shares(place, shares, note=space.info["space"])
  print(f"picture: {place}")
  return result


def check(config: Any) -> dict[str, str]:
  """Where each candidate is from, by name.

  Raises:
    ConfigError: a candidate, the reference, the features or a number that can't be.
  """
  options = config.complementarity
  with from_config(_KEY):
    check_count(candidates.FEWEST, pool_size=options.pool_size)
    check_count(0, projection=options.projection)
  origins = candidates.read_names(options.candidates, key=_CANDIDATES)
  check_name(f"{_KEY}.reference", options.reference, origins)
  if not options.features:
    raise ConfigError(
      f"config.{_FEATURES} is empty: name the workdir of a trained classifier, whose features "
      "images are compared in, or an npz with the weights of LPIPS"
    )
  return origins


def _measure(rows: np.ndarray, train: np.ndarray, test: np.ndarray, *, seed: int) -> dict[str, Any]:
  """All numbers of a candidate that need no other candidate."""
  found = places.nearest_places(rows, train, test)
  shares = {
    name: {"value": each.value, "interval": [each.low, each.high]}
    for name, each in places.shares(found.pool).items()
  }
  kid = distances.kernel_distance(rows, test, seed=seed)
  own = (found.pool == places.POOLS.index("train")) & (found.row == np.arange(len(rows)))
  return {
    **shares,
    "same_row_of_train": float(own.mean()),
    "median_distance": float(np.median(found.distance)),
    "fid": distances.frechet_distance(rows, test),
    "kid": kid.mean,
    "kid_std": kid.std,
    **distances.fidelity(rows, test, k=_K)._asdict(),
  }


def _compare(found: Mapping[str, dict[str, Any]], reference: str) -> dict[str, dict[str, float]]:
  """The shares of each candidate by pool; adds how far they are from those of the reference."""
  shares = {
    name: {pool: each[pool]["value"] for pool in places.POOLS} for name, each in found.items()
  }
  for name, each in found.items():
    each["distance_to_reference"] = places.profile_distance(shares[name], shares[reference])
  return shares


def _row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
  """A row of the table."""
  return {
    "set": name,
    **{pool: found[pool]["value"] for pool in places.POOLS},
    "to reference": found["distance_to_reference"],
    **{key: found[key] for key in ("fid", "kid", "precision", "recall", "density", "coverage")},
  }
