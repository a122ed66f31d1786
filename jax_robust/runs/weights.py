"""Trained weights as named arrays, from a workdir, an export or a file; or as net variables."""

import contextlib
import functools
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.data.classes import Classes
from jax_robust.data.sources import Source
from jax_robust.errors import ConfigError, near_path
from jax_robust.models import convert, layouts
from jax_robust.runs import belonging, build, state_dicts, workdir
from jax_robust.runs.blocks import from_config
from jax_robust.train import checkpoint, metrics, state

FILE, MANIFEST = "weights.safetensors", "manifest.json"
"""What an export calls its files."""

INIT_FROM = "init_from"
"""What stands in place of a checkpoint's kind where weights are not a run's own."""


def run_weights(path: pathlib.Path, *, which: str) -> tuple[dict[str, np.ndarray], dict]:
  """Averaged parameters and running statistics by name, as `params/…` and `batch_stats/…`.

  Args:
    path: a workdir.
    which: 'best', 'latest' or 'accepted'; a run that has no such checkpoint gives its latest.

  Returns:
    The arrays, and `{"step": …}`.

  Raises:
    ConfigError: there is no checkpoint, or `which` is neither; weights that are not finite.
    WorkdirError: the folder is no workdir, or its checkpoints are of another run.
  """
  workdir.check_is_run(path)
  if which not in checkpoint.READ:
    raise ConfigError(
      f"checkpoint={which!r}: expected 'best' or 'latest', or 'accepted' of a run that was watched "
      "for overfitting"
    )
  for kind in dict.fromkeys((which, checkpoint.LATEST)):
    place = path / "checkpoints" / kind
    if not place.is_dir():
      continue
    with contextlib.closing(checkpoint.Checkpointer(place, read_only=True)) as reader:
      step = reader.latest_step()
      if step is None:
        continue
      belonging.check(reader, path, step=step)
      arrays, _ = reader.read(("ema", "model_state"), step=step)
      renamed = {
        name.replace("ema/", "params/", 1)
        if name.startswith("ema/")
        else name.removeprefix("model_state/"): array
        for name, array in arrays.items()
      }
      _check(renamed, f"the checkpoint {place}/{step}")
      if kind != which:
        metrics.report(f"{path} has no checkpoint {which!r}: the newest is taken, of step {step}")
      return renamed, {"step": step, "checkpoint": kind}
  if (path / "runs").is_dir():
    runs = ", ".join(str(each) for each in sorted((path / "runs").iterdir()))
    raise ConfigError(f"{path} holds a comparison: name one of its runs, {runs}")
  raise ConfigError(f"{path} has no checkpoint yet: train first")


def file_of(reference: str) -> pathlib.Path:
  """The path that a reference means: of an export's folder the file in it."""
  path = pathlib.Path(reference)
  return path / FILE if (path / FILE).exists() else path


def read_init(config: Any) -> dict[str, np.ndarray]:
  """The weights of `config.init_from` under our names; a PyTorch file's must fit `config.model`.

  Raises:
    ConfigError: as `read_weights`; or a state dict that means another net than the config's.
  """
  arrays = read_weights(config.init_from)
  if not layouts.is_torch(arrays):
    return arrays
  metadata = convert.read_metadata(file_of(config.init_from))
  return state_dicts.as_ours(config, state_dicts.identify(config, arrays, metadata))


def read_weights(reference: str) -> dict[str, np.ndarray]:
  """Reads named weights from a workdir, an export's folder, or a safetensors or npz file.

  Those of a PyTorch state dict keep their names: see `read_init`.

  Raises:
    ConfigError: there is nothing there, or no weights, or other bytes than its checksum says; an
      array that is not finite, or not floating-point.
    WorkdirError: a folder that is neither.
  """
  path = file_of(reference)
  if not path.exists():
    raise ConfigError(f"init_from={reference!r}: there is no such file or folder{near_path(path)}")
  if path.is_dir():
    return run_weights(path, which=checkpoint.BEST)[0]
  if not path.is_file():
    raise ConfigError(f"init_from={reference!r} is no file, but a pipe or a device")
  checksum = path.with_name(path.name + ".sha256")
  if checksum.exists():
    expected = checksum.read_text(errors="replace").split()
    if expected[:1] != [hashlib.sha256(path.read_bytes()).hexdigest()]:
      raise ConfigError(
        f"init_from={reference!r}: the file's sha256 is not that of {checksum.name}: it is "
        "damaged, or was changed; export it again"
      )
  with from_config("init_from"):
    arrays = convert.load_arrays(path)
  _check(arrays, f"init_from={reference!r}")
  return arrays


def _check(arrays: Mapping[str, np.ndarray], where: str) -> None:
  """Raises ConfigError, with all their names, where arrays can't be weights.

  A count of updates among the running statistics may be an integer.
  """
  problems = [
    problem
    for name, array in arrays.items()
    if name.startswith("params/") or np.issubdtype(array.dtype, np.floating)
    if (problem := convert.weight_problem(name, array))
  ]
  if problems:
    more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
    raise ConfigError(f"{where} holds no usable weights:\n  " + "\n  ".join(problems[:20]) + more)


def num_classes(place: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> int:
  """How many classes a model tells apart, as noted beside its weights.

  Args:
    place: the workdir, export or file that the weights are of.
    arrays: the weights by name. Those that have no note beside them (a file alone, a workdir of an
      earlier version) say it by the size of their last layer, `logits`.

  Raises:
    ConfigError: there is no note, and no layer of that name.
  """
  if (noted := noted_classes(place)) is not None:
    return noted.num
  if "params/logits/bias" not in arrays:
    raise ConfigError(
      f"{place} does not say how many classes there are: it has neither {workdir.DATA} nor "
      f"{MANIFEST} beside its weights, and no layer named 'logits'"
    )
  return len(arrays["params/logits/bias"])


def noted_classes(place: pathlib.Path) -> Classes | None:
  """The classes that are noted beside weights; None without a note, no names in older ones.

  Args:
    place: the workdir, export or file that the weights are of.
  """
  beside = (
    (place / workdir.DATA, place / MANIFEST) if place.is_dir() else (place.parent / MANIFEST,)
  )
  for note in beside:
    if note.is_file():
      data = belonging.read_data(note)
      if "num_classes" in data:
        return Classes(int(data["num_classes"]), tuple(data.get("class_names", ())))
  return None


def place_of(config: Any, path: pathlib.Path) -> pathlib.Path:
  """Where the weights are that a job is about: its workdir, or else `config.init_from`."""
  is_other = config.init_from and not (path / "checkpoints").exists()
  return pathlib.Path(config.init_from) if is_other else path


def noted_names(config: Any, path: pathlib.Path) -> tuple[str, ...]:
  """What the classes of a job's weights are called, as noted beside them; () if they are not."""
  noted = noted_classes(place_of(config, path))
  return noted.names if noted else ()


def classes_of_model(config: Any, path: pathlib.Path) -> Classes | None:
  """The classes that the weights tell apart, as far as they are noted.

  A run of an earlier version noted no names. Where it was trained on a folder, they are the names
  of the folders of its training split.

  Raises:
    ConfigError: those are of another number than the run's classes.
  """
  noted = noted_classes(place_of(config, path))
  if noted is None or noted.names:
    return noted
  names = build.train_class_names(config) if place_of(config, path) == path else ()
  if names and len(names) != noted.num:
    raise ConfigError(
      f"{path} was trained on {noted.num} classes by an earlier version, which took numbers that "
      f"name folders for labels; {config.data.name} now has {len(names)}: {', '.join(names[:20])}. "
      "Train again, or evaluate with the version of the run"
    )
  return Classes(noted.num, names)


def check_classes(place: pathlib.Path, source: Source) -> None:
  """Raises ConfigError unless weights and images have the same classes in the same order.

  Only names that both sides know are compared.
  """
  noted = noted_classes(place)
  if noted is None or not noted.names or not source.class_names:
    return
  if noted.names != source.class_names:
    raise ConfigError(
      f"the weights in {place} tell apart the classes {list(noted.names)}, the images of "
      f"{source.name} are of {list(source.class_names)}: use weights of the same classes in "
      f"the same order, or a copy of the file alone, without the {MANIFEST} that names them"
    )


def shape_problem(place: pathlib.Path, source: Source) -> str:
  """How the images of a source differ in shape from those that weights were trained on, or ""."""
  note = place / workdir.DATA
  noted = belonging.read_data(note).get("image_shape") if note.is_file() else None
  if noted is None or tuple(noted) == source.image_shape:
    return ""
  return (
    f"the weights in {place} were trained on images of shape {noted}, those of {source.name} have "
    f"{list(source.image_shape)}"
  )


def find(config: Any, path: pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray], dict]:
  """The weights that a job is about: those of its workdir, or else of `config.init_from`.

  Returns:
    Where they are from, the arrays by name, and step and checkpoint.
  """
  if place_of(config, path) != path:
    info = {"step": None, "checkpoint": INIT_FROM}
    return pathlib.Path(config.init_from), read_init(config), info
  return path, *run_weights(path, which=config.evaluation.checkpoint)


def digest(arrays: dict[str, np.ndarray]) -> str:
  """A checksum of named arrays."""
  sha256 = hashlib.sha256()
  for name in sorted(arrays):
    sha256.update(name.encode())
    sha256.update(np.ascontiguousarray(arrays[name]).tobytes())
  return sha256.hexdigest()


def fit(arrays: dict[str, np.ndarray], net, image_shape, *, name: str) -> tuple[Any, Any]:
  """Arranges named weights as `(params, model_state)` of a net.

  Raises:
    CheckpointMismatchError: names, shapes or kinds of numbers differ; the message lists them.
    ConfigError: the net takes no images of that shape.
  """
  wanted = _variables(net, image_shape)
  leaves = checkpoint.flatten(wanted)
  problems = checkpoint.differences(
    {key: tuple(a.shape) for key, a in arrays.items()},
    {key: tuple(a.shape) for key, a in leaves.items()},
  )
  problems += [
    f"{key}: {a.dtype} in the checkpoint, {leaves[key].dtype} in the model"
    for key, a in arrays.items()
    if key in leaves and not _is_like(a.dtype, leaves[key].dtype)
  ]
  if problems:
    raise checkpoint.CheckpointMismatchError(
      f"the weights in {name} do not fit this model:\n  " + "\n  ".join(problems)
    )
  tree = dict(checkpoint.unflatten({k: jnp.asarray(a) for k, a in arrays.items()}, wanted))
  return tree.pop("params"), tree


def fresh(net: Any, image_shape: Sequence[int], *, seed: int) -> dict[str, np.ndarray]:
  """Untrained weights by name: what `smoke` evaluates."""
  inputs = [jnp.zeros(each.shape, each.dtype) for each in state.example_inputs(net, image_shape)]
  with from_config("model"):
    variables = net.init(jax.random.key(seed), *inputs, train=False)
  return {name: np.asarray(array) for name, array in checkpoint.flatten(variables).items()}


def _is_like(dtype: Any, wanted: Any) -> bool:
  """Whether numbers of one type can stand for those of another: floats for floats."""
  kinds = (jnp.floating, jnp.integer)
  return any(jnp.issubdtype(dtype, kind) and jnp.issubdtype(wanted, kind) for kind in kinds)


def shapes(net: Any, image_shape: Sequence[int]) -> tuple[Any, Any]:
  """`(params, model_state)` of a net as shapes and dtypes."""
  variables = dict(_variables(net, image_shape))
  return variables.pop("params"), variables


def _variables(net: Any, image_shape: Sequence[int]) -> Any:
  """What a net of images is initialised to, as shapes and dtypes."""
  inputs = state.example_inputs(net, image_shape)
  init = functools.partial(net.init, train=False)
  with from_config("model"):  # images may be too small for it
    return jax.eval_shape(init, jax.random.key(0), *inputs)
