"""The size of a benchmark."""

import os


def sizes(**known: int) -> dict[str, int]:
  """The defaults, with what JAX_ROBUST_BENCH='name=number,...' changes."""
  for item in filter(None, os.environ.get("JAX_ROBUST_BENCH", "").split(",")):
    key, _, value = item.partition("=")
    if key not in known:
      raise ValueError(f"JAX_ROBUST_BENCH has {key!r}: expected some of {', '.join(known)}")
    known[key] = int(value)
  return known
