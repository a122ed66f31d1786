"""The command that started this process's job, as it was typed, for whatever wants to note it."""

import contextlib
import contextvars
import shlex
from collections.abc import Iterator, Sequence

_typed: contextvars.ContextVar[str] = contextvars.ContextVar("typed", default="")


@contextlib.contextmanager
def started_by(argv: Sequence[str]) -> Iterator[None]:
  """Notes what was typed after `python -m jax_robust.main`, for as long as the job runs."""
  token = _typed.set(shlex.join(["python", "-m", "jax_robust.main", *argv]))
  try:
    yield
  finally:
    _typed.reset(token)


def typed() -> str:
  """The command, quoted for a shell; empty where a program called the job.

  >>> with started_by(["--config=quickstart", "--workdir=my run"]):
  ...   typed()
  "python -m jax_robust.main --config=quickstart '--workdir=my run'"
  """
  return _typed.get()
