"""The models that a job evaluates: the workdir's own, or others that the config names."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from jax_robust import config as config_lib
from jax_robust import paths
from jax_robust.data import named
from jax_robust.data.sources import Source
from jax_robust.early_exit.inference import RunBlock, compile_blocks
from jax_robust.errors import ConfigError, warn
from jax_robust.nets.exits import Exit, select_exit
from jax_robust.runs import belonging, build, init_from, weights, workdir
from jax_robust.runs.blocks import check_name, from_config
from jax_robust.train import state
from jax_robust.types import LogitsFn


class Net(NamedTuple):
  """A trained classifier.

  Attributes:
    name: that results are called by.
    logits_fn: `x -> logits`, in eval mode.
    sigma: standard deviation of the noise it was trained under; None if it does not say.
    sha256: of its weights.
  """

  name: str
  logits_fn: Callable
  sigma: float | None
  sha256: str


def each_net(
  config: Any, path: pathlib.Path, source: Any, references: Sequence[str] = ()
) -> Iterator[Net]:
  """The nets of `references`, workdirs or files of weights, which may be `NAME=PATH`; by default
  the workdir's own.

  A workdir that is named brings its own `model`; a file of weights must fit the config's.

  Raises:
    ConfigError: two of them have one name, or one can't be read.
  """
  if not references:
    yield _open(config, path, source, config.model.name)
    return
  named = [paths.named_run(reference) for reference in references]
  names = [name for name, _ in named]
  for name in names:
    if names.count(name) > 1:
      raise ConfigError(f"smoothing.weights: {names.count(name)} of them are called {name!r}")
  for name, reference in named:
    folder = pathlib.Path(reference)
    if (folder / "config.json").is_file():
      theirs = config_lib.from_data(workdir.read_config(folder))
      theirs.evaluation = config.evaluation
      theirs.init_from = ""
      yield _open(theirs, folder, source, name)
    else:
      ours = config_lib.from_data(config_lib.to_data(config))
      ours.init_from, ours.init_check = reference, ""
      yield _open(ours, pathlib.Path(), source, name)


class Opened(NamedTuple):
  """A trained model and the test images that a job is about.

  Attributes:
    source: the images, as many as `evaluation.num_examples` says.
    net: the module.
    params, model_state: its weights.
    info: step, checkpoint and sha256 of the weights.
  """

  source: Source
  net: Any
  params: Any
  model_state: Any
  info: dict[str, Any]

  @property
  def variables(self) -> tuple[Any, Any]:
    """The weights as arguments of a compiled program, of which they are no part."""
    return self.params, self.model_state


def open_model(config: Any, path: pathlib.Path) -> Opened:
  """Opens the test split, and a workdir's weights or those of `config.init_from`."""
  source = build.load_test(config, weights.classes_of_model(config, path))
  chosen = build.eval_source(config, source)
  if chosen.rows is not None:
    workdir.write_result(path, "test_images", {**workdir.drawn(chosen), "of": source.num_examples})
  return Opened(chosen, *load_net(config, path, chosen))


def open_run(reference: str, source: Source, *, key: str) -> tuple[Any, Opened]:
  """The net of another run, for the images of a source, and that run's config.

  Args:
    reference: workdir of the run, whose own config says which checkpoint.
    source: the images.
    key: of the config that names the run, for messages.

  Raises:
    ConfigError: it has no weights; its images are of another shape, or its classes are others.
    WorkdirError: it is no workdir.
  """
  folder = pathlib.Path(reference)
  theirs = config_lib.from_data(workdir.read_config(folder))
  theirs.init_from = ""
  note = folder / workdir.DATA
  noted = belonging.read_data(note) if note.is_file() else {}
  for name, here in (("image_shape", source.image_shape), ("num_classes", source.num_classes)):
    there = noted.get(name, here)
    there = tuple(there) if isinstance(there, list) else there
    if there != here:
      raise ConfigError(
        f"config.{key}={reference!r} was trained on images of {name} {there}, {source.name} has "
        f"{here}: name a run on images like these"
      )
  return theirs, Opened(source, *load_net(theirs, folder, source))


def load_net(config, path: pathlib.Path, source) -> tuple[Any, Any, Any, dict[str, Any]]:
  """A workdir's net, or init_from's: module, parameters, model state, and where they are from."""
  net = build.model(config, source.num_classes)
  if config.init_from == named.MADE and not (path / "checkpoints").exists():
    place, arrays = path, weights.fresh(net, source.image_shape, seed=config.seed)
    info = {"step": None, "checkpoint": weights.INIT_FROM}
  else:
    place, arrays, info = weights.find(config, path)
    weights.check_classes(place, source)
    if problem := weights.shape_problem(place, source):
      warn(f"{problem}: a net for the ones need not be right for the others")
  params, model_state = weights.fit(arrays, net, source.image_shape, name=str(place))
  return net, params, model_state, {**info, "sha256": weights.digest(arrays)}


def make_logits_fn(
  config: Any, net: Any, params: Any, model_state: Any, *, precision: str | None = None
) -> LogitsFn:
  """`logits_fn(x) -> [b, k]` of a net in eval mode, with the exit that `evaluation.exit` names.

  Args:
    config: of the run.
    net: the module.
    params, model_state: its weights; they may be traced.
    precision: of matrix products and convolutions; None takes what the caller has set.
  """
  outputs_fn = make_outputs_fn(net, params, model_state, precision=precision)
  return select_exit(outputs_fn, read_exit(config))


def in_precision(precision: str | None) -> contextlib.AbstractContextManager:
  """A context with that precision of matrix products; None leaves what the caller has set."""
  return jax.default_matmul_precision(precision) if precision else contextlib.nullcontext()


def make_outputs_fn(
  net: Any, params: Any, model_state: Any, *, precision: str | None = None
) -> LogitsFn:
  """`outputs_fn(*inputs)` of a net in eval mode: of a net with several exits, the logits of all.

  Args: those of `make_logits_fn`.
  """
  apply_fn = state.make_apply_fn(net)

  def outputs_fn(*inputs):
    with in_precision(precision):
      return apply_fn(params, model_state, *inputs, train=False)[0]

  return outputs_fn


def outputs_of_weights(config: Any, net: Any) -> Callable[[Any, Any], LogitsFn]:
  """`make(params, model_state) -> outputs_fn`, in the precision of the config's evaluation."""
  return functools.partial(make_outputs_fn, net, precision=config.evaluation.precision)


def make_run_block(
  net: Any, params: Any, model_state: Any, *, precision: str | None = None
) -> RunBlock:
  """`run_block(state, number) -> (state, logits)` of a net in eval mode, compiled block by block.

  Args: those of `make_logits_fn`.

  Raises:
    ConfigError: the net can't be run block by block.
  """
  if not hasattr(net, "run_block"):
    raise ConfigError(
      f"model {type(net).__name__} has no run_block(state, number), so no block can be left out: "
      "deploy a net such as msdnet, or give yours that method"
    )

  def run_block(variables, inputs, number):
    with in_precision(precision):
      return net.apply(variables, inputs, number, method="run_block")

  return compile_blocks(run_block, {"params": params, **model_state})


def read_exit(config: Any) -> Exit:
  """`config.evaluation.exit`: 'last', 'mean', 'mean:K', or a number, which may come as text.

  Raises:
    ConfigError: it is none of these.
  """
  text = str(config.evaluation.exit)
  if text.removeprefix("-").isdigit():
    return int(text)
  if text.startswith("mean:"):
    with from_config("evaluation"):
      select_exit(lambda x: x, text)
    return text
  check_name("evaluation.exit", text, ("last", "mean"))
  return text


def noted_exit(config: Any) -> dict[str, Any]:
  """What results note of `evaluation.exit`, so that those of two exits are never mixed.

  Nothing of the last one, as those of versions before there were several.
  """
  exit = read_exit(config)
  return {} if exit in ("last", -1) else {"exit": exit}


def _open(config, path, source, name) -> Net:
  """Loads one net."""
  config = init_from.complete(config, path)
  net, params, model_state, info = load_net(config, path, source)
  is_own = info["checkpoint"] != weights.INIT_FROM
  sigma = config.objective.get("sigma", None) if is_own else None
  return Net(name, make_logits_fn(config, net, params, model_state), sigma, info["sha256"])
