"""The command line: `python -m jax_robust.main --config=FILE[:ARG] --workdir=DIR [--config.KEY=VALUE …]`."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax_robust import config as config_lib

HELP = """\
Train, attack and export robust image classifiers.

  python -m jax_robust.main --config=FILE[:ARG] --workdir=DIR [--config.KEY=VALUE ...]

  --config=FILE[:ARG]   a Python file with get_config(arg), a config.json of an earlier run, or the
                        name of a config that ships with jax_robust; ARG goes to get_config, and
                        every config takes `smoke` (two steps on made data)
  --config.KEY=VALUE    changes one value: --config.batch.size=512, --config.attack.eps=8/255,
                        --config.total_steps=1000 (replaces total_epochs), --config.job=evaluate
  --workdir=DIR         where everything goes: config.json, versions.json, metrics.jsonl,
                        checkpoints/, results/; the same command on the same DIR resumes
  --print-config        prints the config as JSON, with what was changed, and stops
  --help                prints this

Jobs, as config.job names them:
{jobs}

Configs that ship with jax_robust:
{configs}

Exit codes: 0 done; 2 a mistake in the command or config; 1 the run failed; 143 asked to stop
(SIGTERM), state saved: the same command goes on from there.
"""


class Arguments(NamedTuple):
  """What was typed: where the config is, what changes in it, and where the run lives."""

  config: str
  workdir: str
  overrides: list[tuple[str, str]]
  print_config: bool


def jobs() -> dict[str, Callable[[Any, str], Mapping[str, Any]]]:
  """The jobs by name, each `(config, workdir) -> result`; imported only when one is to run."""
  from jax_robust.jobs import compare, evaluate, export, generate, train

  return {
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "generate": generate.generate,
    "export": export.export,
    "compare": compare.compare,
  }


def parse(argv: Sequence[str]) -> Arguments:
  """Reads the command line.

  Raises:
    ConfigError: an unknown or missing flag.
  """
  values: dict[str, str] = {}
  overrides = []
  for item in argv:
    flag, equals, text = item.removeprefix("-").removeprefix("-").partition("=")
    if not item.startswith("-"):
      raise config_lib.ConfigError(f"{item!r} is not a flag: write --config=… and --workdir=…")
    if flag.startswith("config.") and equals:
      overrides.append((flag.removeprefix("config."), text))
    elif flag in ("config", "workdir") and equals:
      values[flag] = text
    elif flag == "print-config":
      values[flag] = "yes"
    elif flag in ("config", "workdir") or flag.startswith("config."):
      raise config_lib.ConfigError(f"--{flag} needs a value: --{flag}=…")
    else:
      known = ("config", "workdir", "print-config", "help")
      raise config_lib.ConfigError(f"unknown flag --{flag}{config_lib.near_miss(flag, known)}")
  if "config" not in values:
    raise config_lib.ConfigError("--config=FILE is missing; --help shows what there is")
  if "workdir" not in values and "print-config" not in values:
    raise config_lib.ConfigError("--workdir=DIR is missing: where should the run live?")
  return Arguments(
    values["config"], values.get("workdir", ""), overrides, "print-config" in values
  )


def start_distributed(config) -> None:
  """Joins the other processes of the job, found by JAX or named in JAX_COORDINATOR_ADDRESS."""
  import jax

  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  if address:
    jax.distributed.initialize(
      coordinator_address=address,
      num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
      process_id=int(os.environ["JAX_PROCESS_ID"]),
    )
  elif config.distributed:
    jax.distributed.initialize()


def use_compilation_cache() -> None:
  """Keeps compiled programs in the user's cache folder, unless JAX was told where."""
  import jax

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    root = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    jax.config.update("jax_compilation_cache_dir", os.path.join(root, "jax_robust", "xla"))


def help_text() -> str:
  """What `--help` prints."""

  def first_line(text):
    return (text or "").strip().split("\n")[0]

  job_lines = "\n".join(f"  {name:<10} {first_line(job.__doc__)}" for name, job in jobs().items())
  config_lines = "\n".join(f"  {name}" for name in config_lib.shipped())
  return HELP.format(jobs=job_lines, configs=config_lines)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one job and returns the exit code."""
  argv = sys.argv[1:] if argv is None else list(argv)
  if not argv or "--help" in argv or "-h" in argv:
    print(help_text())
    return 0 if argv else 2
  logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
  logging.getLogger("jax_robust").setLevel(logging.INFO)
  try:
    arguments = parse(argv)
    config = config_lib.load(arguments.config)
    for key, text in arguments.overrides:
      config_lib.override(config, key, text)
    if config.job not in jobs():
      raise config_lib.ConfigError(
        f"config.job={config.job!r}{config_lib.near_miss(config.job, jobs())}"
      )
    if arguments.print_config:
      import json

      print(json.dumps(config_lib.to_data(config), indent=2))
      return 0
    start_distributed(config)
    use_compilation_cache()
    result = jobs()[config.job](config, arguments.workdir)
  except _mistakes() as error:
    print(f"jax_robust: {error}", file=sys.stderr)
    return 2
  except OSError as error:
    print(f"jax_robust: {error}", file=sys.stderr)
    return 1
  return 143 if result.get("preempted") else 0


def _mistakes() -> tuple[type[Exception], ...]:
  """Errors that tell the user what to change; anything else is a bug and keeps its traceback."""
  from jax_robust.data.sources import DataFileError
  from jax_robust.jobs.workdir import WorkdirError
  from jax_robust.train.checkpoint import CheckpointMismatchError

  return (config_lib.ConfigError, DataFileError, WorkdirError, CheckpointMismatchError)


if __name__ == "__main__":
  sys.exit(main())
