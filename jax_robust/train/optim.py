"""Learning-rate schedules, the optimiser with its weight-decay mask, and the parameter average."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jax_robust.errors import check_count, check_flag, check_name, check_one, check_share

SCHEDULES = ("cosine", "linear", "step", "milestones", "constant")
OPTIMIZERS = ("sgd", "adam")


def scaled_learning_rate(learning_rate: float, batch_size: int) -> float:
  """Linear scaling that never shrinks: `learning_rate * max(batch_size / 256, 1)`.

  Raises:
    TypeError, ValueError: the learning rate is no finite number of at least 0.

  >>> scaled_learning_rate(0.1, 1024), scaled_learning_rate(0.1, 128)
  (0.4, 0.1)
  """
  check_one(learning_rate=learning_rate)
  return learning_rate * max(batch_size / 256, 1.0)


def make_schedule(
  *,
  name: str = "cosine",
  peak: float,
  total_steps: int,
  warmup_steps: int = 0,
  warmup_share: float = 0.0,
  milestone_steps: Sequence[int] = (),
  gamma: float = 0.1,
) -> optax.Schedule:
  """Linear warm-up from 0 to `peak`, then one of five shapes.

  'cosine' and 'linear' fall to 0 at `total_steps`; 'linear' with a long warm-up is the cyclic
  schedule of fast adversarial training, 0 to `peak` to 0. 'step' is a tenth from `warmup_steps +
  2/3 total_steps` on: the released TRADES program counts two thirds of all steps after the warm-up.
  'milestones' is multiplied by gamma at each of `milestone_steps`. 'constant' stays.

  Args:
    name: 'cosine', 'linear', 'step', 'milestones' or 'constant'.
    peak: the largest learning rate.
    total_steps: length of the run, warm-up included.
    warmup_steps: length of the warm-up.
    warmup_share: the same as a share of the run, in [0, 1], instead of `warmup_steps`.
    milestone_steps: of 'milestones', counted from the start of the run.
    gamma: of 'milestones'.

  Returns:
    A function of the step.

  Raises:
    TypeError, ValueError: an unknown name; a warm-up given twice, or longer than the run, or than
      the first milestone; milestones of another schedule; a peak or gamma that is no finite number
      of at least 0.

  >>> cyclic = make_schedule(name="linear", peak=0.2, total_steps=10, warmup_share=0.4)
  >>> [round(float(cyclic(step)), 4) for step in (0, 2, 4, 7, 10)]
  [0.0, 0.1, 0.2, 0.1, 0.0]
  """
  check_name("schedule name", name, SCHEDULES)
  check_one(peak=peak, gamma=gamma)
  if not 0 <= warmup_share <= 1 or (warmup_share and warmup_steps):
    raise ValueError(
      f"warmup_share={warmup_share} with warmup_steps={warmup_steps}: expected a share of the run, "
      "0 to 1, and only one of the two"
    )
  warmup_steps = warmup_steps or round(warmup_share * total_steps)
  if not 0 <= warmup_steps <= total_steps:
    raise ValueError(f"warmup_steps={warmup_steps}: expected 0 to total_steps={total_steps}")
  if milestone_steps and name != "milestones":
    raise ValueError(f"milestone_steps={milestone_steps} with schedule name={name!r}")
  if min(milestone_steps, default=warmup_steps) < warmup_steps:
    raise ValueError(
      f"milestone_steps={milestone_steps}: expected at least {warmup_steps}, where the warm-up ends"
    )
  remaining = max(total_steps - warmup_steps, 1)
  after = {
    "cosine": optax.cosine_decay_schedule(peak, remaining),
    "linear": optax.linear_schedule(peak, 0.0, remaining),
    "step": optax.piecewise_constant_schedule(peak, {int(total_steps * 2 / 3): 0.1}),
    "milestones": optax.piecewise_constant_schedule(
      peak, {int(step) - warmup_steps: gamma for step in milestone_steps}
    ),
    "constant": optax.constant_schedule(peak),
  }[name]
  if warmup_steps == 0:
    return after
  return optax.join_schedules(
    [optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps]
  )


def weight_decay_mask(params, *, decay_batchnorm: bool = False):
  """True for every parameter, or all but those of BatchNorm layers, told by their module's name."""

  def decays(path, _):
    return decay_batchnorm or not any("batchnorm" in str(key) for key in path)

  return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(
  schedule: optax.Schedule,
  *,
  name: str = "sgd",
  momentum: float = 0.9,
  nesterov: bool = True,
  weight_decay: float = 5e-4,
  decay_batchnorm: bool = False,
  updates_per_batch: int = 1,
) -> optax.GradientTransformation:
  """SGD with momentum, or Adam, with weight decay coupled: added to the gradient, before momentum.

  Coupled decay is the gradient of `weight_decay / 2 * sum ||w||^2` inside the loss, as PyTorch's
  SGD and the TRADES programs have it.

  Args:
    schedule: learning rate as a function of the number of batches so far.
    name: 'sgd' or 'adam'.
    momentum: of SGD.
    nesterov: whether SGD's momentum looks ahead.
    weight_decay: coefficient of the half squared norm.
    decay_batchnorm: whether BatchNorm's scale and offset decay too, as in PyTorch's default and the
      randomized smoothing programs; in the TRADES programs they do not.
    updates_per_batch: optimiser steps that an update makes with each batch. The schedule counts
      batches, so all steps of one batch have one learning rate.

  Returns:
    An optax transformation.

  Raises:
    TypeError, ValueError: an unknown name; a momentum outside [0, 1]; a weight decay that is no
      finite number of at least 0.
  """
  check_name("optimizer name", name, OPTIMIZERS)
  check_share(momentum=momentum)
  check_one(weight_decay=weight_decay)
  check_count(updates_per_batch=updates_per_batch)
  check_flag(nesterov=nesterov, decay_batchnorm=decay_batchnorm)

  def rate_of_batch(count):
    return schedule(count // updates_per_batch)

  rate = schedule if updates_per_batch == 1 else rate_of_batch
  core = optax.scale_by_adam() if name == "adam" else optax.trace(momentum, nesterov=nesterov)
  return optax.chain(
    optax.add_decayed_weights(
      weight_decay, mask=functools.partial(weight_decay_mask, decay_batchnorm=decay_batchnorm)
    ),
    core,
    optax.scale_by_learning_rate(rate),
  )


def check_ema(*, decay: float = 0.995, warmup_steps: int = 0, ramp: bool = True) -> None:
  """Raises unless a decay is a share of the average, a warm-up a number of steps, a ramp a flag."""
  check_flag(ramp=ramp)
  check_share(decay=decay)
  check_count(0, warmup_steps=warmup_steps)


def ema_update(
  average, new, step, *, decay: float = 0.995, warmup_steps: int = 0, ramp: bool = True
):
  """Moving average `d * average + (1 - d) * new` of parameters, with a decay that ramps up.

  `d = min(decay, (1 + t) / (10 + t))` with t the steps since the warm-up; during the warm-up the
  average is the current value. `ramp=False` uses `decay` from the start.

  Guarantees:
    `ema_ramp_values`: d is .1 at t = 0 and reaches .995 at t = 1790.

  Args:
    average: the tree averaged so far.
    new: the tree after this step's update.
    step: number of this update, from 0, traced.
    decay: the decay at the end of the ramp; 0 switches averaging off.
    warmup_steps: steps during which the average only follows.
    ramp: whether the decay ramps up.

  Returns:
    The new average.

  Raises:
    ValueError: as `check_ema`.

  >>> round(float(ema_update(0.0, 1.0, 0)), 4)
  0.9
  """
  check_ema(decay=decay, warmup_steps=warmup_steps, ramp=ramp)
  t = jnp.maximum(step - warmup_steps, 0).astype(jnp.float32)
  rate = jnp.minimum(decay, (1.0 + t) / (10.0 + t)) if ramp else jnp.asarray(decay, jnp.float32)
  rate = jnp.where(step < warmup_steps, 0.0, rate)
  return jax.tree.map(
    lambda a, n: (rate * a + (1.0 - rate) * n).astype(jnp.asarray(n).dtype), average, new
  )
