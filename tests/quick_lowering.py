"""One MLIR context serves many programs: JAX makes one for each, and loads every dialect into it.

That takes a fifth of the time of a small program, and megabytes until the next collection.
"""

from jax._src.interpreters import mlir

MOST_PROGRAMS = 100  # A context keeps the types and constants of all its programs.


def install() -> None:
  """Has JAX lower its programs in a context that it has already, if it still makes one for each."""
  if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = shared(mlir.make_ir_context)


def shared(make):
  """`make`, which gives the same result a hundred times."""
  result, calls = None, 0

  def call():
    nonlocal result, calls
    if calls % MOST_PROGRAMS == 0:
      result = make()
    calls += 1
    return result

  return call
