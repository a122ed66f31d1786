"""Weights out of a run, and back in: safetensors with a checksum, and `jax_robust.load`."""

import hashlib
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_robust import config as config_lib
from jax_robust.atomic import write_atomically
from jax_robust.errors import brought_by
from jax_robust.models import convert
from jax_robust.runs import build, nets, weights, workdir
from jax_robust.types import LogitsFn


def export(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Writes a run's averaged weights as `export/weights.safetensors`, with config and sha256."""
  stored = workdir.read_config(path)
  arrays, info = weights.run_weights(path, which=config.evaluation.checkpoint)
  return _write(path / "export", arrays, stored, info)


def _write(target: pathlib.Path, arrays, stored, info) -> dict[str, Any]:
  """Writes weights, config and manifest; the manifest last: where it is, the rest is whole."""
  with brought_by("train"):
    from safetensors.numpy import save

  target.mkdir(exist_ok=True)
  content = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
  digest = hashlib.sha256(content).hexdigest()
  # The old checksum goes first: a kill leaves no weights beside another file's checksum.
  (target / f"{weights.FILE}.sha256").unlink(missing_ok=True)
  write_atomically(target / weights.FILE, content)
  write_atomically(target / f"{weights.FILE}.sha256", f"{digest}  {weights.FILE}\n")
  result = {"file": weights.FILE, "sha256": digest, "step": info.get("step"), "config": stored}
  result["num_parameters"] = int(sum(a.size for n, a in arrays.items() if n.startswith("params/")))
  result["data"] = {"num_classes": weights.num_classes(target.parent, arrays)}
  if (noted := weights.noted_classes(target.parent)) is not None and noted.names:
    result["data"]["class_names"] = list(noted.names)
  workdir.write_json(target / weights.MANIFEST, result)
  return result


def load(folder: str, *, checkpoint: str = "best") -> LogitsFn:
  """Loads a trained run as a `logits_fn`: float images in [0, 1] in, logits out.

  Args:
    folder: a workdir.
    checkpoint: 'best' or 'latest'.

  Returns:
    `logits_fn(x)` with the averaged parameters and running statistics, in eval mode.

  Raises:
    WorkdirError: the folder is no workdir.
    ConfigError: it has no checkpoint.
  """
  path = pathlib.Path(folder).expanduser()
  config = config_lib.from_data(workdir.read_config(path))
  arrays, _ = weights.run_weights(path, which=checkpoint)
  net = build.model(config, weights.num_classes(path, arrays))
  tree = convert.unflatten_variables({name: jnp.asarray(a) for name, a in arrays.items()})
  params = tree.pop("params")
  return nets.make_logits_fn(config, net, params, tree)
