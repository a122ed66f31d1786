"""One MLIR context serves many programs: JAX makes one for each, and loads every dialect into it.

That takes a fifth of the time of a small program, and megabytes until the next collection.
"""

from jax._src.interpreters import mlir

MOST_PROGRAMS = 100  # A context keeps the types and constants of all its programs.

_make_context = getattr(mlir, "make_ir_context", None)  # private, and may go with any release
_context, _programs = None, 0


def install() -> None:
  """Has JAX lower its programs in a context that it has already."""
  if _make_context is not None:
    mlir.make_ir_context = kept_context


def kept_context():
  """`make_ir_context`, which gives the same context for the next programs."""
  global _context, _programs
  assert _make_context is not None
  if _programs % MOST_PROGRAMS == 0:
    _context = _make_context()
  _programs += 1
  return _context
