"""The jobs as functions of Python: what the command line does, and its results as objects.

  from jax_robust import api
  run = api.train("configs/quickstart.py", "RUN", {"job": "train", "total_steps": 100})
  api.autoattack(run, {"autoattack.version": "apgd-ce"}).result["robust"]

They lie in this module, since `jax_robust.train` and `jax_robust.evaluate` are packages.
"""

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_robust import config as config_lib
from jax_robust import jobs, overrides, plugins, presets
from jax_robust.config import ConfigDict
from jax_robust.errors import ConfigError
from jax_robust.evaluate import plot_style
from jax_robust.jobs import export
from jax_robust.models import convert
from jax_robust.runs import keys, weights, workdir
from jax_robust.train import metrics
from jax_robust.types import LogitsFn


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A workdir, and what a job found there.

  Attributes:
    path: the workdir.
    job: the job that ran; '' of a run that was opened.
    config: of that job.
    result: its main numbers, as `results/JOB.json` has them, if any.
    figures: the Matplotlib figures that it drew, by the stem of their file in `results/`.
  """

  path: pathlib.Path
  job: str
  config: ConfigDict = dataclasses.field(repr=False)
  result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __fspath__(self) -> str:
    return str(self.path)

  @functools.cached_property
  def logits_fn(self) -> LogitsFn:
    """The trained classifier, from the checkpoint that `evaluation.checkpoint` names.

    Float images in [0, 1] in, logits out; averaged parameters, eval mode.

    Raises:
      ConfigError: there is no checkpoint yet.
    """
    return export.load(str(self.path), checkpoint=self.config.evaluation.checkpoint)

  @functools.cached_property
  def variables(self) -> dict[str, Any]:
    """What `logits_fn` computes with: `params`, and running statistics, as nested arrays.

    Raises:
      ConfigError: there is no checkpoint yet.
    """
    arrays, _ = weights.run_weights(self.path, which=self.config.evaluation.checkpoint)
    return convert.unflatten_variables(arrays)

  @property
  def metrics(self) -> dict[str, np.ndarray]:
    """The rows of `metrics.jsonl` as columns of one length: see `train.metrics.as_columns`."""
    file = self.path / "metrics.jsonl"
    return metrics.as_columns(metrics.read_metrics(file) if file.exists() else [])


Given = str | os.PathLike[str] | Run


def run(
  config: str | ConfigDict,
  folder: Given | None = None,
  changes: Mapping[str, Any] | None = None,
) -> Run:
  """Runs the job that a config names.

  The same call on the same workdir goes on where an earlier one was stopped.

  Args:
    config: as `--config` takes it: a file with its argument, a `config.json`, or the name of a
      config that ships with us; or a ConfigDict, which is left as it is.
    folder: the workdir; None makes a new one in the folder for temporary files.
    changes: values of the config by key with dots, such as `{"attack.eps": 8 / 255}`; a dictionary
      takes the place of a block, None removes a key that can be done without.

  Returns:
    What was found, and where it lies. If the job was told to stop, `result["preempted"]`.

  Raises:
    UserError: a mistake in the config, the data or the workdir; the message says what to do.
    NonFiniteError: the training ran into NaN or infinity.
  """
  if isinstance(config, str):
    config = config_lib.load(config)
  elif not isinstance(config, ConfigDict):
    raise ConfigError(
      f"config is a {type(config).__name__}: expected a ConfigDict, or text as --config takes it"
    )
  config, changes = config.copy_and_resolve_references(), dict(changes or {})
  if "imports" in changes:
    plugins.load(changes)
  config = presets.complete(config)
  overrides.change(config, changes, functools.partial(keys.known, config))
  path = pathlib.Path(folder if folder is not None else tempfile.mkdtemp(prefix="jax_robust_"))
  with plot_style.collected() as figures:
    result = jobs.run(config, path)
  return Run(path, config.job, config, result, figures)


def open_run(folder: Given) -> Run:
  """A run that there is: its config, classifier and metrics.

  Raises:
    WorkdirError: the folder is no workdir.
  """
  path = pathlib.Path(folder).expanduser()
  return Run(path, "", config_lib.from_data(workdir.read_config(path)))


def train(
  config: str | ConfigDict,
  folder: Given | None = None,
  changes: Mapping[str, Any] | None = None,
) -> Run:
  """Trains what a config describes, whatever job it names; as `run` otherwise."""
  return run(config, folder, {**(changes or {}), "job": "train"})


def evaluate(folder: Given, changes: Mapping[str, Any] | None = None) -> Run:
  """Measures `config.evals` of a run on its test images, at each radius of `evaluation.eps_list`.

  Args:
    folder: the workdir of a training, or the Run that `train` returned.
    changes: as those of `run`.

  Returns:
    The run, with what was found.

  Raises:
    UserError: a mistake in the config, the data or the workdir.
  """
  return _of(folder, "evaluate", changes)


def autoattack(folder: Given, changes: Mapping[str, Any] | None = None) -> Run:
  """Evaluates a run by AutoAttack; goes on where it was stopped. As `evaluate` otherwise."""
  return _of(folder, "autoattack", changes)


def certify(folder: Given, changes: Mapping[str, Any] | None = None) -> Run:
  """Certifies a run by randomized smoothing; goes on where it stopped. As `evaluate` otherwise."""
  return _of(folder, "certify", changes)


def _of(folder: Given, job: str, changes: Mapping[str, Any] | None) -> Run:
  """A job on a run's workdir."""
  opened = open_run(folder)
  return run(opened.config, opened.path, {**(changes or {}), "job": job})
