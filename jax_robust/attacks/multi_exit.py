"""Attacks on nets with several exits: aimed at one rule of decision, or at the worst of all exits.

An attack that is given the tuple of all exits ascends the average of their losses. That need not
break the exit that answers, whose loss may be small among large ones; so a sound evaluation also
aims at each exit, and at whatever answers.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks.returned import check_attacked
from jax_robust.errors import check_function, check_images
from jax_robust.nets.exits import Exit, exits_of, select_exit
from jax_robust.nets.randomised import keyed
from jax_robust.types import Attack, Images, LogitsFn, LossFn, as_keys

_SUCH_AS = ", such as functools.partial(attacks.pgd, ball=attacks.linf_ball(8 / 255))"


def aimed(attack: Attack, rule: Exit | Callable[[LogitsFn], LogitsFn]) -> Attack:
  """An attack on a net that answers by another rule than the one that it is given.

  - Exit k: `aimed(attack, k)`.
  - The logarithm of the mean of the exits' softmax: `aimed(attack, "mean")`; of exits 0 to k,
    `"mean:k"`.
  - The exit that is taken: `aimed(attack, functools.partial(early_exit, thresholds=...))`. Which
    exit that is has no gradient, so a gradient attack does not push images to another one.
  - The average of the losses needs no aim: it is what an attack on the tuple ascends.

  Args:
    attack: any attack.
    rule: an exit, as `nets.select_exit` takes it, or a function of the `logits_fn`.

  Returns:
    `attack(logits_fn, x, targets, rng) -> x_adv`; it takes the attack's keywords.

  Raises:
    TypeError: the attack is no function, such as its name; the rule gives none.
    ValueError: the rule is no exit; (when called) the net has no such exit.

  >>> from jax_robust import attacks
  >>> fgsm = functools.partial(attacks.fgsm, ball=attacks.linf_ball(0.25))
  >>> net, x = lambda x: (x, -3 * x), jnp.full((1, 2), 0.5)
  >>> [aimed(fgsm, k)(net, x, jnp.array([0]), jax.random.key(0)).tolist() for k in (0, 1)]
  [[[0.25, 0.75]], [[0.75, 0.25]]]
  """
  check_function(_SUCH_AS, attack=attack)
  choose = rule if callable(rule) else functools.partial(select_exit, exit=rule)
  if choose is not rule:
    choose(exits_of)  # raises at once where the rule is no exit, whatever the net

  def aimed_attack(logits_fn, x, targets, rng, **options):
    chosen = choose(logits_fn)
    check_function(" of images, a logits_fn", **{"rule(logits_fn)": chosen})
    return attack(chosen, x, targets, rng, **options)

  return aimed_attack


def max_average(attack: Attack, *, loss_fn: LossFn = losses.cross_entropy) -> Attack:
  """The attack at each exit by itself; of its points the one with the largest average loss is kept.

  `x_adv = argmax over x_k of (1 / K) sum_i loss(f_i(x_k), y)`, x_k the attack's point at exit k,
  per image. It costs as much as K attacks.

  Guarantees:
    `average_loss_is_no_smaller`: than that of the attack at any exit.

  Args:
    attack: any attack on one exit.
    loss_fn: what is averaged; the attack may ascend another.

  Returns:
    `attack(logits_fn, x, targets, rng) -> x_adv`; it takes the attack's keywords.

  Raises:
    TypeError, ValueError: the attack or the loss is no function; (when called) as `largest_average`
      and `jax_robust.attacks`.

  Reference: Hu et al. 2020, "Triple Wins" (arXiv:2002.10025).

  >>> from jax_robust import attacks
  >>> fgsm = functools.partial(attacks.fgsm, ball=attacks.linf_ball(0.25))
  >>> net, x = lambda x: (x, -3 * x), jnp.full((1, 2), 0.5)
  >>> max_average(fgsm)(net, x, jnp.array([0]), jax.random.key(0)).tolist()
  [[0.75, 0.25]]
  """

  check_function(_SUCH_AS, attack=attack)
  losses.over_exits(loss_fn)  # raises where it is no loss

  def max_average_attack(logits_fn, x, targets, rng, **options):
    check_images(x)
    keys = as_keys(rng, len(x))
    losses.as_labels(targets, len(x))  # before the model sees what may be one image
    num_exits = len(jax.eval_shape(lambda x, keys: exits_of(keyed(logits_fn)(x, keys)), x, keys))
    points = [aimed(attack, k)(logits_fn, x, targets, keys, **options) for k in range(num_exits)]
    for each in points:
      check_attacked(each, x)
    return largest_average(logits_fn, points, targets, keys, loss_fn=loss_fn)

  return max_average_attack


def largest_average(
  logits_fn: LogitsFn,
  points: Sequence[Images],
  targets,
  rng,
  *,
  loss_fn: LossFn = losses.cross_entropy,
) -> Float[Array, "b *dims"]:
  """Of several points of each image the one with the largest average loss over the exits.

  A point whose loss is NaN is chosen only where all are.

  Args:
    logits_fn: of all exits.
    points: arrays `[b, ...]`, at least one.
    targets, rng: as those of `jax_robust.attacks`.
    loss_fn: what is averaged.

  Returns:
    Points `[b, ...]`.

  Raises:
    TypeError, ValueError: no points, or some that are no images in [0, 1] of one shape; targets,
      keys, outputs or a loss as `jax_robust.attacks` refuses them.
  """
  if not isinstance(points, Sequence) or not points:
    kind = "an empty" if isinstance(points, Sequence) else "a"
    raise ValueError(
      f"points is {kind} {type(points).__name__}: expected a list of arrays [b, ...], at least one"
    )
  for each in points:
    check_attacked(each, points[0], "the attack of a point")
  losses.as_labels(targets, len(points[0]))
  keys, query = as_keys(rng, len(points[0])), keyed(logits_fn)
  average = losses.over_exits(loss_fn)
  each = jnp.stack([average(query(jnp.asarray(x), keys), targets) for x in points])
  best = jnp.argmax(jnp.where(jnp.isnan(each), -jnp.inf, each), axis=0)
  stacked = jnp.stack([jnp.asarray(x) for x in points])
  return jax.lax.stop_gradient(stacked[best, jnp.arange(stacked.shape[1])])
