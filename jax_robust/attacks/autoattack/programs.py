"""What an evaluation compiles for a model and images of a shape, and what may not run at all."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.attacks.autoattack import guards
from jax_robust.attacks.autoattack.confirm import make_predict
from jax_robust.attacks.autoattack.survivors import Compiled, compile_search
from jax_robust.attacks.autoattack.versions import Stage
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.stepwise import Problem
from jax_robust.errors import UserError
from jax_robust.nets import derivatives
from jax_robust.nets.constants import Lifted, lift
from jax_robust.nets.devices import Devices
from jax_robust.nets.exits import single_exit
from jax_robust.nets.fingerprint import fingerprint, is_same
from jax_robust.types import LogitsFn


class Programs(NamedTuple):
  """What is compiled, each program when it first runs.

  Attributes:
    num_classes: of the model.
    stages: the attacks that can run, in order.
    searches: those of each stage, by its name, with their restarts.
    warnings: about the attacks that can't.
    predict: see `make_predict`.
    check_model: see `guards.make_check_model`.
  """

  num_classes: int
  stages: tuple[Stage, ...]
  searches: Mapping[str, Sequence[tuple[Compiled, int]]]
  warnings: tuple[str, ...]
  predict: Callable[..., np.ndarray]
  check_model: Callable[..., list[str]]


def make_programs(
  logits_fn: LogitsFn,
  stages: Sequence[Stage],
  *,
  norm: str,
  batch_size: int,
  num_draws: int,
  devices: Devices,
) -> Callable[[tuple[int, ...], Any], Programs]:
  """Builds `programs(image_shape, dtype)`, which compiles nothing anew for the same model.

  The model is traced each time, since a function may be the same and its weights others.

  Args:
    logits_fn: `(x, keys) -> logits`.
    stages: the attacks.
    norm: of the balls.
    batch_size: rows of a batch.
    num_draws: of a prediction.
    devices: how rows are spread.

  Returns:
    The function; it raises what `_build` does.
  """
  known: dict[Any, Any] = {}

  def programs(image_shape, dtype):
    x, keys = jax.ShapeDtypeStruct((1, *image_shape), dtype), jax.random.split(jax.random.key(0), 1)
    seen = fingerprint(logits_fn, x, keys)
    before, built = known.get((image_shape, dtype), (None, None))
    if before is None or not is_same(before, seen):
      built = _build(logits_fn, stages, x, keys, norm, batch_size, num_draws, devices)
      known[image_shape, dtype] = seen, built
    return built

  return programs


def _build(logits_fn, stages, x, keys, norm, batch_size, num_draws, devices) -> Programs:
  """Checks that every attack can run before the first one does.

  Raises:
    UserError: no attack is left to run; a model without a derivative, and attacks that need one.
    Whatever an attack raises when it is traced.
  """
  net = lift(lambda *args: logits_fn(*args), x, keys)
  logits = jax.eval_shape(lambda x, keys: single_exit(logits_fn(x, keys), "autoattack"), x, keys)
  num_classes = logits.shape[-1]
  few = [stage.name for stage in stages if stage.min_classes > num_classes]
  dims = [s.name for s in stages if s.num_dims is not None and x.ndim - 1 not in s.num_dims]
  warnings = [f"left out for lack of classes: {', '.join(few)}"] if few else []
  if dims:
    warnings.append(f"left out for images of shape {x.shape[1:]}: {', '.join(dims)}")
  kept = tuple(stage for stage in stages if stage.name not in (*few, *dims))
  if not kept:
    raise UserError(
      f"no attack is left to run: {'; '.join(warnings)}; the model has {num_classes} classes"
    )
  need = [stage.name for stage in kept if stage.takes_gradients]
  if need and not derivatives.has_derivative(logits_fn, x, keys):
    raise UserError(derivatives.without_derivative(", ".join(need)))
  for search in [search for stage in kept for search, _ in stage.searches]:
    _trace(search, net, x, keys, norm)
  searches = {
    stage.name: [
      (compile_search(each, net, devices, stop_when_found=num_draws == 1), num_restarts)
      for each, num_restarts in stage.searches
    ]
    for stage in kept
  }
  return Programs(
    num_classes,
    kept,
    searches,
    tuple(warnings),
    make_predict(net, batch_size=batch_size, num_draws=num_draws, devices=devices),
    guards.make_check_model(net, gradients=bool(need)),
  )


def _trace(search: Any, net: Lifted, x: Any, keys: Any, norm: str) -> None:
  """Raises what the search would raise in its first step; computes nothing."""

  def first_step(constants, x, eps, keys):
    labels = jnp.zeros(x.shape[0], jnp.int32)
    ball = Ball(eps, norm=norm)
    state = search.init(ball, Problem(x, labels, labels, keys))
    return search.step(ball, functools.partial(net.apply, constants), state)

  jax.eval_shape(first_step, net.constants, x, 0.1, keys)
