"""Two processes of one job over localhost, two devices each."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pair_config
from quick_compilation import XLA_FLAGS

STEPS, EVERY = 100, 10
ARGUMENT = f"steps={STEPS},save={EVERY},evaluate=50,log={EVERY}"
PATIENCE = 240


class Pair:
  """The two processes of a job, and what they print."""

  def __init__(self, workdir: pathlib.Path, changes: Mapping[str, Any]):
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      port = probe.getsockname()[1]
    self.workdir = workdir
    workdir.mkdir(exist_ok=True)
    self.logs = [workdir / f"process_{i}.log" for i in range(2)]
    command = [sys.executable, "-m", "jax_robust.main", f"--workdir={workdir / 'run'}"]
    command += [f"--config={pair_config.__file__}:{ARGUMENT}"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    self.processes = []
    for i, log in enumerate(self.logs):
      environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONFAULTHANDLER": "1",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(i),
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {XLA_FLAGS}",
      }
      with log.open("w") as output:
        self.processes.append(
          subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        )

  def wait_until(self, is_done: Callable[[], bool]) -> None:
    """Returns as soon as it is so, while the first process runs."""
    end = time.monotonic() + PATIENCE
    while not is_done():
      assert time.monotonic() < end and self.processes[0].poll() is None, self.printed()
      time.sleep(0.005)

  def finish(self) -> list[int]:
    """The exit codes; where a process hangs, every thread says where before it dies."""
    try:
      return [process.wait(PATIENCE) for process in self.processes]
    except subprocess.TimeoutExpired:
      for process in self.processes:
        process.send_signal(signal.SIGABRT)
        process.wait(10)
      raise AssertionError(self.printed()) from None

  def printed(self) -> str:
    """What both have printed."""
    return "\n".join(log.read_text() for log in self.logs)


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
      process.wait()
