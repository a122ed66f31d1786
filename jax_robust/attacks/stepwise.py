"""Long attacks as searches: `init` and `step`, compiled as a whole or driven from the host.

A search is one run of an attack for each image: a restart of APGD, one target class of FAB. Its
state has one row per image, and each row knows how far it is. So the same `step` runs in a compiled
loop, or is driven from the host, where rows whose image is broken go on with another image
(`autoattack/survivors.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jax_robust.attacks.balls import Ball
from jax_robust.attacks.entry import Inputs
from jax_robust.attacks.non_finite import warn_of_lost
from jax_robust.errors import is_traced
from jax_robust.losses import as_labels
from jax_robust.nets import derivatives
from jax_robust.nets.devices import compiler_options
from jax_robust.nets.loops import scan
from jax_robust.types import LogitsFn, fold

fold_each = jax.vmap(jax.random.fold_in)
"""Every example's key `[b]`, folded with its own number `[b]`."""


class Problem(NamedTuple):
  """What stays the same through a search, `[b, ...]` each.

  `goals` are the target classes of a targeted search; an untargeted one ignores them.
  """

  x: Array
  labels: Array
  goals: Array
  keys: Array


def make_problem(inputs: Inputs) -> Problem:
  """The problem of an attack that is called with these inputs.


  Where they have no goals, its goals are the labels, for the caller to replace.
  """
  labels = as_labels(inputs.targets)
  goals = labels if inputs.goals is None else inputs.goals
  return Problem(inputs.x, labels, goals, inputs.keys)


class Search(NamedTuple):
  """A long attack. Every leaf of a state has the batch as its first axis.

  Attributes:
    init: `(ball, problem) -> state`, without a query.
    step: `(ball, logits_fn, state) -> state`, with `logits_fn(x, keys)`.
    num_steps: a row whose `state.count` has come this far is done.
    num_forward, num_backward: passes of the model that a step takes; a gradient is one of each.
      None: one for each class.

  A state is a NamedTuple with, among others, the fields of `fresh`.
  """

  init: Callable[[Ball, Problem], Any]
  step: Callable[[Ball, LogitsFn, Any], Any]
  num_steps: int
  num_forward: int = 1
  num_backward: int | None = 1


def fresh(problem: Problem) -> dict[str, Any]:
  """The fields that every state has, before the first step.

  `problem`; `count` of steps done, int32 `[b]`; `found`, whether `x_adv` is misclassified and
  inside the ball, `[b]`; `x_adv`, the best point so far; and `num_lost`, queries whose logits were
  NaN or infinite, int32 `[b]`: such a point is never `x_adv`.
  """
  num_rows = problem.x.shape[0]
  return {
    "problem": problem,
    "count": jnp.zeros(num_rows, jnp.int32),
    "found": jnp.zeros(num_rows, bool),
    "x_adv": problem.x,
    "num_lost": jnp.zeros(num_rows, jnp.int32),
  }


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
  name: str = "the search",
) -> Any:
  """Runs a search to its end and returns the state; `name` is for errors.

  Called eagerly on the CPU it is driven step by step, since XLA runs convolutions inside a loop
  there 5 to 27 times slower; traced, or on an accelerator, it is one `lax.while_loop`.
  """
  drive = make_driver(search, logits_fn, (ball, problem), stop_when_found=stop_when_found)
  with derivatives.needed(name, logits_fn, problem.x, problem.keys):
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

  if _is_one_program(arguments):
    if search.num_steps == 1:  # as in `nets.loops.scan`: a single step is no loop
      return step
    return lambda ball, state: jax.lax.while_loop(going_on, lambda state: step(ball, state), state)
  step, going_on = jax.jit(step, compiler_options=compiler_options()), jax.jit(going_on)

  def drive(ball, state):
    while bool(going_on(state)):
      state = step(ball, state)
    return state

  return drive


def _is_one_program(arguments: Any) -> bool:
  """Whether a loop must be, or had better be, part of one compiled program."""
  # Under `jit` every new array is traced, even where the arguments are not.
  leaves = [*jax.tree.leaves(arguments), jnp.zeros(())]
  return any(map(is_traced, leaves)) or jax.default_backend() != "cpu"


def one_by_one(attempt: Callable[[Any, Any], Any], carry: Any, tries: Any, arguments: Any) -> Any:
  """Returns the last carry of `carry = attempt(carry, try)` for every row of a tuple of arrays.

  Args:
    attempt: one run, with a driver of `make_driver`.
    carry: what the runs hand on.
    tries: arrays `[t, ...]`.
    arguments: as those of `make_driver`.
  """
  if _is_one_program(arguments):
    return scan(lambda carry, each: (attempt(carry, each), None), carry, tries, unroll=1)[0]
  for each in zip(*tries, strict=True):
    carry = attempt(carry, each)
  return carry


def run_all(
  name: str, search: Search, logits_fn: LogitsFn, problem: Problem, goals: Array, *, ball: Ball
) -> Array:
  """Runs a search once for every row of `goals` `[t, b]`: its target classes, or its restarts.

  The keys of run t are folded with t. The result of an image is that of its first successful run,
  `[b, ...]`, else that of the last one. `name` is the attack's, for errors and warnings.
  """
  arguments = ball, problem, goals
  drive = make_driver(search, logits_fn, arguments)

  def attempt(carry, numbered):
    x_adv, found, num_lost = carry
    number, goal = numbered
    keys = fold(problem.keys, number)
    tried = drive(ball, search.init(ball, problem._replace(goals=goal, keys=keys)))
    x_adv = select(found, x_adv, tried.x_adv)
    return x_adv, found | tried.found, num_lost + tried.num_lost

  start = fresh(problem)
  carry = start["x_adv"], start["found"], start["num_lost"]
  with derivatives.needed(name, logits_fn, problem.x, problem.keys):
    carry = one_by_one(attempt, carry, (jnp.arange(goals.shape[0]), goals), arguments)
  warn_of_lost(name, carry[2], logits_fn, problem.x, problem.keys)
  return jax.lax.stop_gradient(carry[0])
