"""Two processes of one job over localhost, two devices each."""

import atexit
import contextlib
import faulthandler
import multiprocessing
import os
import pathlib
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pair_config
from quick_compilation import XLA_FLAGS

STEPS, EVERY = 60, 10
ARGUMENT = f"steps={STEPS},save={EVERY},evaluate=30,log={EVERY}"
PATIENCE = 240


class Pair:
  """The two processes of a job, forked from one that has imported everything."""

  def __init__(self, workdir: pathlib.Path, changes: Mapping[str, Any]):
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      port = probe.getsockname()[1]
    self.workdir = workdir
    workdir.mkdir(exist_ok=True)
    self.logs = [workdir / f"process_{i}.log" for i in range(2)]
    command = [f"--workdir={workdir / 'run'}", f"--config={pair_config.__file__}:{ARGUMENT}"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jax_robust.main", "jax_robust.jobs.train"])
    self.processes = []
    for i, log in enumerate(self.logs):
      environment = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(i),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {XLA_FLAGS}",
      }
      cache = str(workdir.parent / "cache")
      self.processes.append(context.Process(target=_main, args=(command, environment, cache, log)))
    for process in self.processes:
      process.start()

  def send_signal(self, number: int, *indices: int) -> None:
    """Sends a signal to some of the processes; to both by default."""
    for i in indices or range(2):
      os.kill(self.processes[i].pid, number)

  def wait_until(self, is_done: Callable[[], bool]) -> None:
    """Returns as soon as it is so, while the first process runs."""
    end = time.monotonic() + PATIENCE
    while not is_done():
      assert time.monotonic() < end and self.processes[0].is_alive(), self.printed()
      time.sleep(0.005)

  def finish(self) -> list[int]:
    """The exit codes; where a process hangs, every thread says where before it dies."""
    for process in self.processes:
      process.join(PATIENCE)
    if any(process.is_alive() for process in self.processes):
      self.send_signal(signal.SIGABRT)
      for process in self.processes:
        process.join(10)
      raise AssertionError(self.printed())
    return [process.exitcode for process in self.processes]

  def printed(self) -> str:
    """What both have printed."""
    return "\n".join(log.read_text() for log in self.logs)


def _main(command, environment, cache, log) -> None:
  """What a process does: `python -m jax_robust.main`, its exit included."""
  os.environ |= environment
  with log.open("w") as output:
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
  faulthandler.enable()
  import jax

  from jax_robust import main

  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_compilation_cache_dir", cache)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
  main.sys.argv = ["jax_robust", *command]
  try:
    main.start()
  except SystemExit:
    # A forked process leaves without what an interpreter does at its exit, JAX's barrier for one.
    atexit._run_exitfuncs()
    raise
  except BaseException:
    traceback.print_exc()
    raise


@contextlib.contextmanager
def starter(folder: pathlib.Path, **fixed: Any) -> Iterator[Callable[..., Pair]]:
  """`start(name, **changes)` starts a pair, or one that resumes; none is left behind."""
  pairs = []

  def start(name="pair", **changes):
    pairs.append(Pair(folder / name, {**fixed, **changes}))
    return pairs[-1]

  try:
    yield start
  finally:
    for process in (process for pair in pairs for process in pair.processes):
      process.kill()
      process.join()
