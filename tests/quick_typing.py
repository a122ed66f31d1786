"""Shapes and types are checked at the first calls of a function in each test, not at all of them.

jaxtyping with beartype costs more than the small functions that it checks, and a test that calls
one a thousand times proves its annotations at the first. `begin` starts the next test. Writing the
check costs more still, and a function within another is a new one at every call of that: a check is
written when it is needed, and none for a function without annotations.
"""

import functools
import inspect
from collections.abc import Callable

import jaxtyping

PACKAGES = ("losses", "attacks", "nets", "smoothing", "types")
CHECKED_CALLS = 2  # of each function, in each test

# A warning is given at the line of the caller, past jaxtyping's frames, of which these are some.
__name__ = "jaxtyping.first_calls"

_jaxtyped = jaxtyping.jaxtyped
_test = 0


def install() -> None:
  """Has the functions of `PACKAGES` checked, which must not be imported yet."""
  jaxtyping.jaxtyped = first_calls  # what the hook writes above every function
  jaxtyping.install_import_hook([f"jax_robust.{name}" for name in PACKAGES], "beartype.beartype")


def begin() -> None:
  """The next test begins: the first calls of every function are to be checked again."""
  global _test
  _test += 1


def first_calls(function: Callable | None = None, *, typechecker: Callable):
  """`jaxtyping.jaxtyped`, which leaves a function's later calls of a test alone."""
  if function is None:
    return functools.partial(first_calls, typechecker=typechecker)
  if not inspect.isfunction(function):
    return _jaxtyped(function, typechecker=typechecker)
  if not function.__annotations__:
    return function
  checked = functools.cache(lambda: _jaxtyped(function, typechecker=typechecker))
  test, calls = 0, 0

  @functools.wraps(function)
  def call(*args, **kwargs):
    nonlocal test, calls
    if test != _test:
      test, calls = _test, 0
    if calls >= CHECKED_CALLS or jaxtyping.config.jaxtyping_disable:
      return function(*args, **kwargs)
    calls += 1
    return checked()(*args, **kwargs)

  return call
