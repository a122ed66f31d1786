"""Weights & Biases: a run on its server, or in files that are sent later."""

import os
import pathlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from jax_robust.errors import ConfigError, brought_by, check_name
from jax_robust.types import TrackedRun

_MODES = ("online", "offline", "disabled")
_SECONDS = 15.0
"""How long to wait for the server at the beginning and at the end."""


class WandB:
  """A run of Weights & Biases, with the config, metrics by step, results as its summary, pictures.

  Its environment variables hold where an option is left out, such as WANDB_MODE, WANDB_PROJECT,
  WANDB_ENTITY, WANDB_API_KEY and WANDB_BASE_URL. Offline, each start writes the run from its first
  step on into files of its own: `wandb sync WORKDIR/wandb/latest-run` sends the whole run.

  Args:
    run: the run.
    project: the project; empty for WANDB_PROJECT, or else `jax_robust`.
    entity: user or team that the project belongs to; empty for WANDB_ENTITY, or else your own.
    run_name: the run's name there; empty for that of the workdir's folder.
    mode: 'online', 'offline' or 'disabled'; empty for WANDB_MODE, or else 'online'.

  Raises:
    ImportError: wandb is not installed.
    ConfigError: another mode; online, but nobody is logged in.
  """

  takes_results = True

  def __init__(
    self,
    run: TrackedRun,
    *,
    project: str = "",
    entity: str = "",
    run_name: str = "",
    mode: str = "",
  ):
    mode = mode or os.environ.get("WANDB_MODE") or "online"
    check_name("config.tracking.wandb.mode", mode, _MODES, error=ConfigError)
    with brought_by("wandb"):
      import wandb

    # Else wandb would ask for a key at the terminal, and the training would stand still.
    if mode == "online" and not wandb.login(prompt=False, verify=False):
      raise ConfigError(
        "config.trackers: nobody is logged in to Weights & Biases: run `wandb login`, set "
        "WANDB_API_KEY, or write files to be sent later by --config.tracking.wandb.mode=offline"
      )
    self._wandb: Any = wandb
    self._run = run
    project = project or os.environ.get("WANDB_PROJECT") or "jax_robust"
    self._place = {"project": project, "entity": entity or os.environ.get("WANDB_ENTITY") or ""}
    self._name, self._mode = run_name or run.name, mode

  def start(self) -> Mapping[str, str]:
    """Makes the run, or opens that of an earlier start in the same project."""
    earlier = self._run.identity
    run_id = earlier.get("run_id") if self._place.items() <= earlier.items() else ""
    run_id = run_id or secrets.token_hex(4)
    self._logged: Any = self._wandb.init(
      project=self._place["project"],
      entity=self._place["entity"] or None,
      name=self._name,
      id=run_id,
      resume="allow",
      reinit="create_new",
      mode=self._mode,
      dir=os.environ.get("WANDB_DIR") or str(self._run.folder),
      config={key: _plain(value) for key, value in self._run.config.items()},
      settings=self._wandb.Settings(
        console="off", init_timeout=_SECONDS, finish_timeout=_SECONDS, quiet=True
      ),
    )
    # Another identity at each start, so that all steps are sent: wandb keeps some seconds of them
    # in memory, which a kill loses, and it knows itself which ones have arrived.
    return {**self._place, "run_id": run_id, "start": pathlib.Path(self._logged.dir).parent.name}

  def write(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Logs the values of steps, but for those that the server has of an earlier start."""
    for step, values in points:
      if step >= self._logged.starting_step:
        self._logged.log(dict(values), step=step)

  def write_result(
    self, step: int, values: Mapping[str, float], files: Sequence[pathlib.Path]
  ) -> None:
    """Puts the numbers into the run's summary, and logs the pictures."""
    self._logged.summary.update(dict(values))
    if files:
      pictures = {f"results/{file.stem}": self._wandb.Image(str(file)) for file in files}
      self._logged.log(pictures, step=step)

  def close(self, finished: bool) -> None:
    """Ends the run."""
    self._logged.finish(exit_code=0 if finished else 1)


def _plain(value: Any) -> Any:
  """A value of a config as JSON has it."""
  return list(value) if isinstance(value, tuple) else value
