"""Weights out of a run, and back in: safetensors with a checksum, and `jax_robust.load`."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_robust import config as config_lib
from jax_robust.atomic import write_atomically
from jax_robust.errors import ConfigError, brought_by
from jax_robust.models import convert, layouts
from jax_robust.runs import build, nets, weights, workdir
from jax_robust.runs.blocks import check_name, from_config
from jax_robust.types import LogitsFn

FORMATS = ("flax", "torch")


def check(config: Any) -> None:
  """Raises ConfigError where a value of the block `export` can't be used."""
  check_name("export.format", config.export.format, FORMATS)
  if config.export.layout:
    check_name("export.layout", config.export.layout, layouts.LAYOUTS)
    if config.export.format != "torch":
      raise ConfigError(
        f"export.layout={config.export.layout!r} is for PyTorch: set --config.export.format=torch"
      )


def export(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Writes a run's averaged weights as safetensors with config and sha256, for Flax or PyTorch."""
  stored = workdir.read_config(path)
  arrays, info = weights.run_weights(path, which=config.evaluation.checkpoint)
  num_classes = weights.num_classes(path, arrays)
  net = build.model(config_lib.from_data(stored), num_classes)
  manifest = {
    "step": info.get("step"),
    "config": stored,
    "model": _fields(net, stored["model"]["name"]),
    "num_parameters": int(sum(a.size for n, a in arrays.items() if n.startswith("params/"))),
    "data": _classes(path, num_classes),
  }
  target, metadata = path / "export", None
  if config.export.format == "torch":
    arrays, metadata, layout = _as_torch(net, stored["model"]["name"], arrays, config.export.layout)
    target, manifest = target / "torch", {"layout": layout, **manifest}
  return _write(target, arrays, manifest, metadata)


def _classes(path: pathlib.Path, num_classes: int) -> dict[str, Any]:
  """How many classes there are, and what they are called if that is noted."""
  noted = weights.noted_classes(path)
  names = {"class_names": list(noted.names)} if noted is not None and noted.names else {}
  return {"num_classes": num_classes, **names}


def _fields(net: Any, name: str) -> dict[str, Any]:
  """What a net is made of, every default said, as JSON takes it."""
  fields = {f.name: getattr(net, f.name) for f in dataclasses.fields(net) if f.name != "parent"}
  if "dtype" in fields:
    fields["dtype"] = jnp.dtype(fields["dtype"]).name
  plain = (str, int, float, tuple, list, type(None))
  return {k: v if isinstance(v, plain) else repr(v) for k, v in fields.items()} | {"name": name}


def _as_torch(net: Any, name: str, arrays: dict[str, np.ndarray], layout: str):
  """Arrays and metadata of a PyTorch file, and its layout."""
  with from_config("export"):
    layout = layouts.layout_of(net, name, layout=layout)
  variables = convert.unflatten_variables(arrays)
  arrays = convert.to_torch(variables, names=layouts.LAYOUTS[layout].names)
  return arrays, layouts.note(net, layout), layout


def _write(target: pathlib.Path, arrays, manifest, metadata) -> dict[str, Any]:
  """Writes weights, checksum and manifest; the manifest last: where it is, the rest is whole."""
  with brought_by("train"):
    from safetensors.numpy import save

  target.mkdir(parents=True, exist_ok=True)
  content = save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata=metadata)
  digest = hashlib.sha256(content).hexdigest()
  # The old checksum goes first: a kill leaves no weights beside another file's checksum.
  (target / f"{weights.FILE}.sha256").unlink(missing_ok=True)
  write_atomically(target / weights.FILE, content)
  write_atomically(target / f"{weights.FILE}.sha256", f"{digest}  {weights.FILE}\n")
  result = {"file": weights.FILE, "sha256": digest, **manifest}
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
