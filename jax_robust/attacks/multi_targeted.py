"""MultiTargeted: PGD towards each of the likeliest wrong classes in turn."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jax_robust import losses, types
from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.classes import is_finite, likeliest_wrong, succeeded
from jax_robust.attacks.entry import check_inputs
from jax_robust.attacks.non_finite import half_way_back, warn_of_lost
from jax_robust.attacks.pgd_steps import MODEL_NOISE, StepSize, adam, make_move
from jax_robust.attacks.stepwise import Problem, Search, fold_each
from jax_robust.errors import check_count, check_flag
from jax_robust.nets.exits import single_exit


class MultiTargetedState(NamedTuple):
  """A row of MultiTargeted: what every search has (`stepwise.fresh`), and the iterate.

  Attributes:
    margin: that of `x_adv`, minus infinity at first, `[b]`.
    iterate: the next query, `[b, ...]`.
    memory: the optimiser's, of each example.
  """

  problem: Problem
  count: Int[Array, " b"]
  found: Bool[Array, " b"]
  x_adv: Array
  num_lost: Int[Array, " b"]
  margin: Float[Array, " b"]
  iterate: Array
  memory: Any


def multi_targeted(
  logits_fn: types.LogitsFn,
  x: types.Images,
  targets: Any,
  rng: types.Rng,
  *,
  ball: Ball,
  num_targets: int = 9,
  num_steps: int = 200,
  num_restarts: int = 10,
  step_size: StepSize | None = None,
  optimizer: optax.GradientTransformation | None = None,
  stop_when_found: bool = False,
) -> Float[Array, "b *dims"]:
  """PGD on `z_t - z_y` for each of the wrong classes t that the clean logits rank highest.

  A single untargeted loss follows the class that leads at the start; here each of the others gets
  its runs. Every run starts at a uniform point of the ball. Of all iterates of all runs, the one
  of the largest margin `max_{k != y} z_k - z_y` is returned, whatever its target class was.

  Guarantees: those of `jax_robust.attacks`, and
    `every_target_is_tried`: an example that can only be moved to its third class is.

  Args: those of `jax_robust.attacks`, and
    logits_fn: of one exit.
    num_steps: gradient steps per run; the last point costs one pass more. Static.
    num_restarts: runs for each class; static.
    step_size, optimizer: see `pgd`. Default of both: in an l-infinity ball Adam with steps of .1,
      .01 from half way and .001 from three quarters on; in others those of `pgd`.
    stop_when_found: return the best point up to the first that is misclassified instead: much
      quicker, where most examples are broken. Static.

  Reference: Gowal et al., 2019, "An Alternative Surrogate Loss for PGD-based Adversarial Testing",
  https://arxiv.org/abs/1910.09338. 200 steps and ten restarts are those of "AA+MT"; the decay of
  the step is that of the same authors' PGD-40.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 3), 0.5), jnp.array([0])
  >>> attack = functools.partial(multi_targeted, num_steps=4, num_restarts=1, step_size=0.25)
  >>> x_adv = attack(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25))
  >>> x_adv[:, 0].tolist(), float(x_adv.max())
  ([0.25], 0.75)
  """
  check_flag(stop_when_found=stop_when_found)
  inputs = check_inputs("multi_targeted", logits_fn, x, targets, rng, ball)
  problem = stepwise.make_problem(inputs)
  outputs = inputs.query(problem.x, types.fold(problem.keys, MODEL_NOISE))
  clean_logits = jax.lax.stop_gradient(single_exit(outputs, "multi_targeted"))
  goals = likeliest_wrong(clean_logits, problem.labels, num_targets).T
  search = multi_targeted_search(
    num_targets=goals.shape[1], num_steps=num_steps, num_restarts=num_restarts,
    step_size=step_size, optimizer=optimizer,
  )  # fmt: skip
  problem = problem._replace(goals=goals)
  state = stepwise.run(
    search, inputs.query, problem, ball=ball, stop_when_found=stop_when_found,
    name="multi_targeted",
  )  # fmt: skip
  warn_of_lost("multi_targeted", state.num_lost, inputs.query, problem.x, problem.keys)
  return jax.lax.stop_gradient(state.x_adv)


def multi_targeted_search(
  *,
  num_targets: int = 1,
  num_steps: int = 200,
  num_restarts: int = 1,
  step_size: StepSize | None = None,
  optimizer: optax.GradientTransformation | None = None,
) -> Search:
  """`multi_targeted` as a search: all runs of a row, one after the other.

  Args:
    num_targets: columns of the problem's `goals` `[b, num_targets]`, or 1 for `[b]`.
    num_steps: gradient steps per run, of `num_steps` + 1 passes.
    num_restarts: runs for each target; the targets take turns.
    step_size, optimizer: see `multi_targeted`.

  Raises:
    ValueError: no steps, targets or restarts; (when it begins) both `step_size` and `optimizer`.
  """
  check_count(num_targets=num_targets, num_steps=num_steps, num_restarts=num_restarts)

  def moves(ball):
    chosen = optimizer
    if chosen is None and step_size is None and ball.norm == "linf":
      # The later entries win where a short run has no room for the decay.
      chosen = adam({3 * num_steps // 4: 0.001, num_steps // 2: 0.01, 0: 0.1})
    return make_move(ball, step_size, chosen, num_steps)

  return Search(
    init=functools.partial(_init, moves=moves),
    step=functools.partial(_step, moves=moves, num_steps=num_steps),
    num_steps=num_targets * num_restarts * (num_steps + 1),
  )


def _init(ball, problem, *, moves):
  """The state before the first step."""
  x = problem.x
  return MultiTargetedState(
    **stepwise.fresh(problem),
    margin=jnp.full_like(x, -jnp.inf, shape=x.shape[:1]),
    iterate=x,
    memory=moves(ball)[0](x),
  )


def _step(ball, logits_fn, state, *, moves, num_steps):
  """Queries the iterate and moves it; the first query of a run is at a new start."""
  problem, (init_fn, move_fn) = state.problem, moves(ball)
  x, labels = problem.x, problem.labels
  goals = problem.goals.reshape(labels.shape[0], -1)
  run, count = state.count // (num_steps + 1), state.count % (num_steps + 1)
  goal = jnp.take_along_axis(goals, (run % goals.shape[1])[:, None], axis=1)
  keys = fold_each(problem.keys, run)
  start = ball.project(x + ball.sample(keys, x), x)
  point, memory = stepwise.select(
    count == 0, (start, init_fn(start)), (state.iterate, state.memory)
  )
  model_keys = fold_each(keys, MODEL_NOISE + count)

  def lead(point):
    logits = logits_fn(point, model_keys)
    ahead = jnp.take_along_axis(logits, goal, axis=1)
    return jnp.sum(ahead - jnp.take_along_axis(logits, labels[:, None], axis=1)), logits

  gradient, logits = jax.grad(lead, has_aux=True)(point)
  finite = is_finite(logits)
  state = _keep_best(state, point, logits, finite)
  moved, memory = move_fn(gradient, memory, point, count)
  iterate = half_way_back(~finite, point, ball.project(moved, x), x)
  return state._replace(
    count=state.count + 1,
    num_lost=state.num_lost + ~finite,
    iterate=iterate,
    memory=memory,
  )


def _keep_best(state, point, logits, finite):
  """The state whose `x_adv` is this point where it is the first misclassified, or by more."""
  labels = state.problem.labels
  wrong = succeeded(logits, labels, labels)
  margin = losses.margin(logits, labels).astype(state.margin.dtype)
  # A tie is 0 whether the arg max breaks it for or against the label.
  better = (wrong & ~state.found) | ((wrong | ~state.found) & (margin > state.margin) & finite)
  return state._replace(
    x_adv=stepwise.select(better, point, state.x_adv),
    margin=jnp.where(better, margin, state.margin),
    found=state.found | wrong,
  )
