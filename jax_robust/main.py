"""The command line: `python -m jax_robust.main --config=FILE[:ARG] --workdir=DIR …`."""

import ast
import contextlib
import errno
import functools
import json
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

try:
  from jax_robust import bars, errors, job_table, overrides, paths, plugins, presets
  from jax_robust import config as config_lib
except ImportError as error:  # the extra `train` is not installed, as the message says
  if __name__ == "__main__":
    sys.exit(f"error: {error}")
  raise

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
  --explain[=KEY]       prints what a key of the config means, or the keys of a block, or all keys
  --print-config        prints the config as JSON, with what was changed, and stops
  --help                prints this

Jobs, as config.job names them:
{jobs}

Configs that ship with jax_robust:
{configs}

Exit codes: 0 done; 1 the run failed; 2 a mistake in the command, the config or the data; 130
interrupted from the keyboard; 143 asked to stop (SIGTERM), state saved. After 1, 130 and 143 the
same command goes on from the last checkpoint.
"""


class Arguments(NamedTuple):
  """What was typed: where the config is, what changes in it, and where the run lives."""

  config: str
  workdir: str
  overrides: list[tuple[str, str]]
  print_config: bool
  explain: str | None


def parse(argv: Sequence[str]) -> Arguments:
  """Reads the command line.

  Raises:
    ConfigError: an unknown or missing flag.
  """
  values: dict[str, str] = {}
  overrides: list[tuple[str, str]] = []
  for item in argv:
    flag, equals, text = item.removeprefix("-").removeprefix("-").partition("=")
    if not item.startswith("-"):
      shown = errors.shown(item)
      raise errors.ConfigError(f"{shown} is not a flag: write --config=… and --workdir=…")
    if flag.startswith("config.") and equals:
      overrides.append((flag.removeprefix("config."), text))
    elif flag in ("config", "workdir") and equals:
      _check_once(flag, values.setdefault(flag, text), text)
    elif flag == "explain" or (flag == "print-config" and not equals):
      values[flag] = text.removeprefix("config.")
    elif flag in ("config", "workdir") or flag.startswith("config."):
      raise errors.ConfigError(f"--{flag} needs a value: --{flag}=…")
    else:
      known = ("config", "workdir", "explain", "print-config", "help")
      if flag in known:
        raise errors.ConfigError(f"--{flag} takes no value")
      flag = flag[:80]
      raise errors.ConfigError(f"unknown flag --{flag}{errors.near_miss(flag, known)}")
  if "config" not in values:
    raise errors.ConfigError("--config=FILE is missing; --help shows what there is")
  if not values.keys() & {"workdir", "explain", "print-config"}:
    raise errors.ConfigError("--workdir=DIR is missing: where should the run live?")
  workdir = paths.workdir(values["workdir"]) if "workdir" in values else ""
  return Arguments(
    values["config"], workdir, _last_of_each(overrides), "print-config" in values,
    values.get("explain"),
  )  # fmt: skip


def _last_of_each(overrides: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
  """The changes of values, of which the last holds: scripts append theirs; says so.

  Raises:
    ConfigError: a duration in two units.
  """
  found: dict[str, str] = {}
  for key, text in overrides:
    if key in found and not _are_same(found[key], text):
      line = f"--config.{key[:80]} is given twice: the last, {errors.shown(text)}, holds"
      print(f"jax_robust: {line}", file=sys.stderr)
    stem, _, unit = key.rpartition("_")
    others = {f"{stem}_{other}" for other in config_lib.UNITS} & found.keys() - {key}
    if unit in config_lib.UNITS and others:
      raise errors.ConfigError(
        f"--config.{key} and --config.{min(others)} are both given: keep one"
      )
    found.pop(key, None)
    found[key] = text
  return list(found.items())


def _check_once(flag: str, first: str, second: str) -> None:
  """Raises where a flag is given twice, and not the same."""
  if not _are_same(first, second):
    first, second = errors.shown(first), errors.shown(second)
    raise errors.ConfigError(f"--{flag[:80]} is given twice, as {first} and {second}: keep one")


def _are_same(first: str, second: str) -> bool:
  """Whether two texts mean one value, True and true among them."""
  return first == second or (first.lower() == second.lower() in ("true", "false"))


def start_distributed(config) -> None:
  """Joins the other processes of the job, found by JAX or named in JAX_COORDINATOR_ADDRESS.

  Raises:
    ConfigError: they can't be found.
  """
  import jax

  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  given: dict[str, Any] = {}
  if not address and not config.get("distributed"):
    return
  try:
    if address:
      names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
      given = {"coordinator_address": address}
      given |= {key: int(os.environ[name]) for key, name in names.items()}
    jax.distributed.initialize(**given)
  except KeyError as error:
    raise errors.ConfigError(f"JAX_COORDINATOR_ADDRESS is set, but {error} is not") from error
  except (ValueError, RuntimeError) as error:
    if isinstance(error, jax.errors.JaxRuntimeError):
      raise
    raise errors.ConfigError(
      f"config.distributed: the processes can't be found ({str(error).splitlines()[0][:200]}): "
      "start the job by SLURM, on a Cloud TPU or in Kubernetes, or set JAX_COORDINATOR_ADDRESS, "
      "JAX_NUM_PROCESSES and JAX_PROCESS_ID; a single process needs none of it"
    ) from error


def use_compilation_cache() -> None:
  """Keeps compiled programs in the user's cache folder, unless JAX was told where."""
  import jax

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    root = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    jax.config.update("jax_compilation_cache_dir", os.path.join(root, "jax_robust", "xla"))


def use_every_core() -> None:
  """Makes a CPU device of every core, up to 8, unless JAX was told how many there are.

  XLA runs much of a step on one thread. Sharded over two devices, a TRADES-10 step of
  PreActResNet-18 took .79 of the time on two cores (docs/results.md).
  """
  import jax

  told = "JAX_NUM_CPU_DEVICES" in os.environ
  if not told and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX is running already: its devices stay
      jax.config.update("jax_num_cpu_devices", min(cores or 1, 8))


def help_text() -> str:
  """What `--help` prints: the flags, and the first line of every job and config."""

  def lines(docs):
    first = {name: (doc or "").strip().split("\n")[0] for name, doc in docs.items()}
    indent = " " * (max(map(len, first), default=0) + 4)
    return "\n".join(
      textwrap.fill(
        line, 98, initial_indent=f"  {name}".ljust(len(indent)), subsequent_indent=indent
      )
      for name, line in first.items()
    )

  jobs, configs = job_table.JOBS.items(), config_lib.shipped().items()
  return HELP.format(
    jobs=lines({name: job_table.load(job.function).__doc__ for name, job in jobs}),
    configs=lines({name: ast.get_docstring(ast.parse(path.read_text())) for name, path in configs}),
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one job and returns the exit code."""
  argv = sys.argv[1:] if argv is None else list(argv)
  if not argv or "--help" in argv or "-h" in argv:
    print(help_text())
    return 0 if argv else 2
  try:
    arguments = parse(argv)
    config = config_lib.load(arguments.config)
    _import_more(config, arguments.overrides)
    config = presets.complete(config)
    overrides.override_all(
      config, dict(arguments.overrides), functools.partial(_known_keys, config)
    )
    config = config_lib.with_paths(config)
    if arguments.explain is not None:
      from jax_robust.runs import explain

      print(explain.explain(config, arguments.explain))
      return 0
    if arguments.print_config:
      print(json.dumps(config_lib.to_data(config), indent=2))
      return 0
  except errors.ConfigError as error:
    return _complain(error, 2)
  except KeyboardInterrupt:
    return _complain("interrupted", 130)
  from jax_robust.runs import command

  with command.started_by(argv):
    return run(config, arguments.workdir)


def _import_more(config: Any, overrides: Sequence[tuple[str, str]]) -> None:
  """Imports the plug-ins that the command line names: other keys may be theirs."""
  for key, text in overrides:
    if key == "imports":
      config.imports = config_lib.parse_value(text, (), key)
      plugins.load(config)


def _known_keys(config: Any, place: tuple[str, ...]) -> Mapping[str, Any]:
  """The keys that a block may have, imported only where one is missed."""
  from jax_robust.runs import keys

  return keys.known(config, place)


def run(config: Any, workdir: str) -> int:
  """Runs a job; what the user can change becomes a message, and a bug keeps its traceback."""
  import jax

  from jax_robust import jobs
  from jax_robust.train.loop import NonFiniteError

  _set_up_logging()
  try:
    use_every_core()
    start_distributed(config)
    use_compilation_cache()
    result = jobs.run(config, workdir)
  except errors.UserError as error:
    return _complain(error, 2)
  except NonFiniteError as error:
    return _complain(error, 1)
  except OSError as error:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = (
      f"\nfree space under {workdir} and start the same command again to resume" if full else ""
    )
    return _complain(f"{error}{hint}", 1)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    sentence = _runtime_sentence(error)
    if not sentence:
      raise
    return _complain(sentence, 1)
  except KeyboardInterrupt:
    return _complain("interrupted: the same command goes on from the last checkpoint", 130)
  return 143 if result.get("preempted") else 0


def _runtime_sentence(error: BaseException) -> str:
  """What JAX's runtime, or Python for want of memory, says of a failure that is no bug; or ""."""
  import jax

  lines = str(error).splitlines() or [""]
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in lines[0]:
    return (
      f"out of memory ({lines[0][:300]}): what was found so far is kept. Make the batches smaller "
      "(--config.evaluation.batch_size, --config.smoothing.batch_size, --config.batch.microbatch), "
      "and start the same command again to go on"
    )
  if jax.distributed.is_initialized() and jax.process_count() > 1:
    return (
      "another process of this job has ended or can't be reached, so that this one can't go on "
      f"({_what_failed(lines[0])}): look at what the others said, and start the same command again "
      "everywhere to go on"
    )
  return ""


def _what_failed(line: str) -> str:
  """A line of JAX's about processes, without what it says of the library that it used."""
  line = line.partition("[")[0].replace("Gloo", "an operation of all processes:")
  return line[:200].rstrip(" :") or "no reason is given"


def _complain(error: object, code: int) -> int:
  """Prints an error without a traceback and returns the exit code."""
  print(f"jax_robust: {error}", file=sys.stderr)
  return code


class _Lines(logging.Handler):
  """Prints what is logged as lines, which stand above a bar."""

  def emit(self, record: logging.LogRecord) -> None:
    bars.print_line(self.format(record))


def _set_up_logging() -> None:
  """Shows our own messages, and warnings of others; but Orbax logs what it raises, at length."""
  handler = _Lines()
  handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
  logging.basicConfig(level=logging.WARNING, handlers=[handler])
  logging.captureWarnings(bars.are_shown())  # else they would be printed into a bar
  logging.getLogger("jax_robust").setLevel(logging.INFO)
  for name in ("absl", "asyncio", "concurrent.futures"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


def start() -> NoReturn:
  """Runs `main` and exits; where it failed, without waiting for the processes that wait for it."""
  code, waits = 1, True
  try:
    code = main()
    waits = code in (0, 143)
  except SystemExit:  # SIGTERM, while something was written that is now removed
    code, waits = 143, False
  except BrokenPipeError:  # whoever read what is printed, such as `head`, has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code, waits = 141, False
  except Exception:
    waits = False
    traceback.print_exc()
  jax = sys.modules.get("jax")
  if waits or jax is None or not jax.distributed.is_initialized():
    sys.exit(code)
  # JAX's own exit is a barrier of all processes. With this one gone, its service ends the others.
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


if __name__ == "__main__":
  start()
