"""What the process of a side is made of, with the standard library alone: PyTorch's have no more.

Protocol: get ready, print one JSON line, then do a piece of work for every line on stdin and print
what was measured.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any


def read_flags(**defaults: str | float | bool) -> argparse.Namespace:
  """The flags of these names, of their defaults' types; where that is False, a switch."""
  parser = argparse.ArgumentParser()
  for name, default in defaults.items():
    if default is False:
      parser.add_argument(f"--{name}", action="store_true")
    else:
      parser.add_argument(f"--{name}", type=type(default), default=default)
  return parser.parse_args()


def timed(work: Callable[[], Mapping[str, Any]], repeat: int = 1) -> dict[str, Any]:
  """Seconds and CPU seconds of a piece of work, the peak of the resident memory, and its result.

  Where it is repeated, the seconds are those of one, and the result is the last.
  """
  start, cpu = time.perf_counter(), time.process_time()
  for _ in range(repeat):
    found = work()
  used = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {**{name: value / repeat for name, value in used.items()}, "peak_mib": peak, **found}


def tell(**found: Any) -> None:
  """Prints a line."""
  print(json.dumps(found), flush=True)
