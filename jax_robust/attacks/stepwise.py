"""Long attacks in pieces: `init` and `step`, run compiled as a whole or driven from the host.

A search is one try at one goal for each image: a run of APGD, one target class of FAB. Its state is
rows, one per image, and each row knows how far it is. So the same `step` runs in a compiled loop,
or is driven from the host, where the rows of images that fell make room for others (`survivors`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jax_robust.attacks.balls import Ball
from jax_robust.nets.devices import compiler_options
from jax_robust.types import LogitsFn, fold


class Problem(NamedTuple):
  """What stays the same through a search, `[b, ...]` each.

  `goals` are the classes that a targeted search makes for; an untargeted one ignores them.
  """

  x: Array
  labels: Array
  goals: Array
  keys: Array


class Search(NamedTuple):
  """A long attack. Every leaf of a state has the batch as its first axis.

  Attributes:
    init: `(ball, problem) -> state`, without asking the net.
    step: `(ball, logits_fn, state) -> state`, with `logits_fn(x, keys)`.
    num_steps: a row whose `state.count` has come this far is done.
    num_forward, num_backward: passes of the net that a step takes; a gradient is one of each. None:
      one for each class.

  A state is a NamedTuple with, among others, `problem`, `count` (int32 `[b]`), `found` (whether
  `x_adv` is misclassified and inside the ball, `[b]`), and `x_adv`, the best point so far.
  """

  init: Callable[[Ball, Problem], Any]
  step: Callable[[Ball, LogitsFn, Any], Any]
  num_steps: int
  num_forward: int = 1
  num_backward: int | None = 1


def is_done(search: Search, state: Any, *, stop_when_found: bool) -> Array:
  """Rows that no further step changes, `[b]`."""
  done = state.count >= search.num_steps
  return done | state.found if stop_when_found else done


def select(rows: Array, chosen: Any, other: Any) -> Any:
  """Takes the rows `[b]` of a state from `chosen`, the rest from `other`."""

  def leaf(a, b):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(
        leaf(jax.random.key_data(a), jax.random.key_data(b)), impl=jax.random.key_impl(a)
      )
    return jnp.where(jnp.reshape(rows, rows.shape + (1,) * (a.ndim - 1)), a, b)

  return jax.tree.map(leaf, chosen, other)


def advance(
  search: Search, ball: Ball, logits_fn: LogitsFn, state: Any, *, stop_when_found: bool
) -> Any:
  """One step of every row that is not done."""
  done = is_done(search, state, stop_when_found=stop_when_found)
  return select(done, state, jax.lax.stop_gradient(search.step(ball, logits_fn, state)))


def run(
  search: Search,
  logits_fn: LogitsFn,
  problem: Problem,
  *,
  ball: Ball,
  stop_when_found: bool = False,
) -> Any:
  """Runs a search to its end and returns the state.

  Called eagerly on the CPU it is driven step by step, since XLA runs convolutions inside a loop
  there 5 to 27 times slower; traced, or on an accelerator, it is one `lax.while_loop`.
  """
  drive = make_driver(search, logits_fn, (ball, problem), stop_when_found=stop_when_found)
  return drive(ball, search.init(ball, problem))


def make_driver(
  search: Search, logits_fn: LogitsFn, arguments: Any, *, stop_when_found: bool = False
) -> Callable[[Ball, Any], Any]:
  """Builds `(ball, state) -> final state`, whose steps are compiled once however often it is used.

  Args:
    search: the attack.
    logits_fn: `(x, keys) -> outputs`.
    arguments: what the states will be made of: where any of it is traced, all is compiled as one.
    stop_when_found: leave a row at its first adversarial point.
  """

  def step(ball, state):
    return advance(search, ball, logits_fn, state, stop_when_found=stop_when_found)

  def going_on(state):
    return ~jnp.all(is_done(search, state, stop_when_found=stop_when_found))

  if is_one_program(arguments):
    return lambda ball, state: jax.lax.while_loop(going_on, lambda state: step(ball, state), state)
  compiled, ask = jax.jit(step, compiler_options=compiler_options()), jax.jit(going_on)

  def drive(ball, state):
    while bool(ask(state)):
      state = compiled(ball, state)
    return state

  return drive


def is_one_program(arguments: Any) -> bool:
  """Whether a loop must be, or had better be, part of one compiled program."""
  # Under `jit` every new array is traced, even where the arguments are not.
  leaves = [*jax.tree.leaves(arguments), jnp.zeros(())]
  is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
  return is_traced or jax.default_backend() != "cpu"


def run_all(
  search: Search,
  logits_fn: LogitsFn,
  problem: Problem,
  goals: Array,
  *,
  ball: Ball,
) -> tuple[Array, Array]:
  """Runs a search once for every row of `goals` `[t, b]`: its target classes, or its restarts.

  The keys of try t are folded with t. An image whose try was successful sits out those that follow.

  Returns:
    x_adv `[b, ...]` of the first successful try, else of the last one, and `found` `[b]`.
  """

  drive = make_driver(search, logits_fn, (ball, problem, goals))

  def attempt(carry, numbered):
    x_adv, found = carry
    number, goal = numbered
    keys = fold(problem.keys, number)
    tried = drive(ball, search.init(ball, problem._replace(goals=goal, keys=keys)))
    return (select(found, x_adv, tried.x_adv), found | tried.found), None

  carry = problem.x, jnp.zeros(problem.x.shape[:1], bool)
  numbers = jnp.arange(goals.shape[0])
  if is_one_program((ball, problem, goals)):
    carry, _ = jax.lax.scan(attempt, carry, (numbers, goals))
  else:
    for numbered in zip(numbers, goals, strict=True):
      carry, _ = attempt(carry, numbered)
  return jax.lax.stop_gradient(carry)
