"""Evaluators of more than an answer: every exit, the features of every block, directions of attack.

Like `evaluators`, they are pure, per image and jit-able. What they look at is named by their first
parameter, `outputs_fn` or `blocks_fn` (see `subject_of`), and each of their columns is one number
per image, which is measured: a flag or a value.
"""

import collections
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_robust import losses
from jax_robust.attacks import fgsm, linf_ball
from jax_robust.attacks.balls import check_ball
from jax_robust.attacks.classes import is_finite
from jax_robust.attacks.non_finite import put_back
from jax_robust.errors import check_function, check_images, check_name, check_targets
from jax_robust.evaluate.denoising import denoising_error
from jax_robust.evaluate.evaluators import EVALUATORS, Columns, attack_images, is_correct
from jax_robust.losses import as_labels
from jax_robust.nets.exits import described, exits_of, select_exit
from jax_robust.nets.randomised import keyed, takes_rng
from jax_robust.types import Attack, Images, LogitsFn, Rng, as_keys, fold

AIMS = ("average", "own", "last")
"""What an attack on exits may be aimed at, besides the number of an exit."""

_NOISE = 0xA119  # a number for the noise's keys that no attack folds in


def subject_of(evaluator: Callable) -> str:
  """What an evaluator looks at, by the name of its first parameter.

  `logits_fn` is the answer of a net, `outputs_fn` gives all its exits, `blocks_fn` the features of
  its blocks and all exits, and `denoise_fn` is a diffusion net.

  >>> subject_of(clean_exits)
  'outputs_fn'
  """
  return next(iter(inspect.signature(evaluator).parameters))


def _exits_fn(outputs_fn: LogitsFn, x: Images, labels: Any) -> Callable[..., tuple[Array, ...]]:
  """`(x, keys) -> exits`, checked as the attacks check theirs."""
  check_images(x)
  query = keyed(outputs_fn)

  def exits_at(x, keys):
    exits = exits_of(query(x, keys))
    check_targets(labels, num_classes=exits[0].shape[1], name="labels")
    return exits

  return exits_at


def clean_exits(outputs_fn: LogitsFn, x: Images, labels: Any, keys: Rng) -> Columns:
  """Whether each exit classifies images correctly as they are.

  Args:
    outputs_fn: `x -> outputs` of all exits, or randomised `(x, rng) -> outputs`; a single array of
      logits is the only exit.
    x: images in [0, 1].
    labels: true classes, as `errors.check_targets` describes them.
    keys: one key per image, or one for all: see `types.as_keys`.

  Returns:
    Flags `[b]` by the number of the exit: `0`, `1` and so on.
  """
  exits_at = _exits_fn(outputs_fn, x, labels)
  labels = as_labels(labels, len(x))
  exits = exits_at(x, as_keys(keys, len(x)))
  return {f"{k}": is_correct(logits, labels) for k, logits in enumerate(exits)}


def attacked_exits(
  outputs_fn: LogitsFn,
  x: Images,
  labels: Any,
  keys: Rng,
  *,
  attack: Callable[[Any], Attack],
  eps: Any,
  aim: int | str = "average",
) -> Columns:
  """Whether each exit classifies images correctly both as they are and attacked.

  An attack on the average hits late exits more than early ones, whose accuracy it flatters; with
  `aim='own'` each exit has an attack of its own, at that many times the cost.

  Guarantees:
    `robust_exits_are_clean_exits`: the attacked images are scored again, in a pass of their own.
    `own_aim_is_the_exit_alone`: the flags of exit k are those of `attacked` on exit k.
    `a_lost_point_is_no_attack`: where the attacked logits of exit k are NaN or infinite, its
      verdict is that of the image.

  Args:
    outputs_fn, x, labels, keys: as those of `clean_exits`.
    attack: `eps -> attack`.
    eps: radius, in units of the image; may be traced.
    aim: 'average', one attack on the mean of the exits' losses; 'own', for each exit one on its
      loss; 'last' or a number, one attack on the loss of that exit, scored at all.

  Returns:
    Flags `[b]` by the number of the exit; `lost` `[b]`, whether attacked logits of one of them
    were not finite.

  Raises:
    ValueError: `aim` is none of these, or the net has no such exit.
    TypeError, ValueError: as `evaluators.attacked`.
  """
  exits_at = _exits_fn(outputs_fn, x, labels)
  given, labels, keys = labels, as_labels(labels, len(x)), as_keys(keys, len(x))
  clean = exits_at(x, keys)

  def exits_under_attack(aim):
    target = outputs_fn if aim == "average" else select_exit(outputs_fn, aim)
    return exits_at(attack_images(attack, eps, target, x, given, keys), keys)

  aim = read_aim(aim, len(clean))
  if aim == "own":
    attacked = [exits_under_attack(k)[k] for k in range(len(clean))]
  else:
    attacked = exits_under_attack(aim)
  found = {}
  for k, (before, after) in enumerate(zip(clean, attacked, strict=True)):
    after = put_back(~is_finite(after), before, after)
    found[f"{k}"] = is_correct(before, labels) & is_correct(after, labels)
  return {**found, "lost": ~is_finite(tuple(attacked))}


def read_aim(aim: int | str, num_exits: int | None = None) -> Any:
  """An aim of `attacked_exits`: one of `AIMS`, or a number, which may come as text.

  Args:
    aim: as it stands in a config.
    num_exits: of the net, where it is known.

  Raises:
    ValueError: it is none of these, with the near miss, or the net has no such exit.

  >>> read_aim("average"), read_aim("2", 3)
  ('average', 2)
  """
  text = str(aim)
  if isinstance(aim, bool) or not text.removeprefix("-").isdecimal():
    check_name("aim", aim, AIMS)
    return aim
  if num_exits is not None and not -num_exits <= int(text) < num_exits:
    raise ValueError(
      f"aim={text}: expected 'average', 'own', 'last', or 0 to {num_exits - 1}, the exits of this "
      "model"
    )
  return int(text)


BlocksFn = Callable[[Any], tuple[tuple[Array, ...], tuple[Array, ...]]]
"""`x -> (features, logits)`: a tuple of each, with one entry per block."""


def feature_distance(
  blocks_fn: BlocksFn,
  x: Images,
  labels: Any,
  keys: Rng,
  *,
  attack: Callable[[Any], Attack],
  eps: Any,
) -> Columns:
  """`||h_b(x') - h_b(x)||_2` at the end of each block b, x' attacked on the average of the exits.

  Args:
    blocks_fn: `x -> (features, logits)` in eval mode; features h_b `[b, h, w, c]` are what the
      block's exit reads.
    x, labels, keys: as those of `clean_exits`.
    attack: `eps -> attack`.
    eps: radius, in units of the image; may be traced.

  Returns:
    Values `[b]` for each block: `absolute/B`; `relative/B`, divided by `||h_b(x)||_2`, since
    blocks differ in width; `pooled/B`, the distance of the means over space. All in float32,
    whatever the net's features are.

  Raises:
    TypeError, ValueError: `blocks_fn` takes or returns something else; as `attacked_exits`.

  Reference: Chen et al., 2022, "Fast adversarial training in a multi-exit network", Neural Networks
  150, which shows means over images, for FGSM and PGD; which tensor it means is an inference.
  """
  blocks_at = _blocks_fn(blocks_fn)
  outputs_fn = lambda x: blocks_at(x)[1]  # noqa: E731
  exits_at = _exits_fn(outputs_fn, x, labels)
  as_labels(labels, len(x))  # before the net sees what may be one image
  keys = as_keys(keys, len(x))
  exits_at(x, keys)
  x_adv = attack_images(attack, eps, outputs_fn, x, labels, keys)
  found = {}
  for number, (before, after) in enumerate(zip(blocks_at(x)[0], blocks_at(x_adv)[0], strict=True)):
    distance = _norm(after - before)
    found[f"absolute/{number}"] = distance
    found[f"relative/{number}"] = distance / jnp.maximum(_norm(before), _TINY)
    found[f"pooled/{number}"] = _norm(_pool(after) - _pool(before))
  return found


def _blocks_fn(blocks_fn: BlocksFn) -> BlocksFn:
  """`x -> (features, logits)`, the features in float32; raises where it gives something else."""
  check_function(" x -> (features, logits), a tuple of each", blocks_fn=blocks_fn)
  if takes_rng(blocks_fn):
    raise TypeError("blocks_fn takes (x, rng): expected a function of images, in eval mode")

  def blocks_at(x):
    found = blocks_fn(x)
    is_pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], (tuple, list))
    if not is_pair or not found[0]:
      raise ValueError(
        f"blocks_fn returned {described(found)}: expected (features, logits), a tuple of each, "
        "with one entry per block"
      )
    for number, each in enumerate(found[0]):
      shape, dtype = np.shape(each), getattr(each, "dtype", np.dtype(object))
      is_floating = jnp.issubdtype(dtype, jnp.floating)
      if not is_floating or len(shape) < 2 or shape[:1] != (len(x),):
        raise ValueError(
          f"blocks_fn returned features of shape {shape} and dtype {dtype} at block {number}: "
          f"expected floating-point features [{len(x)}, ...]"
        )
    return tuple(each.astype(jnp.float32) for each in found[0]), found[1]

  return blocks_at


_TINY = 1e-12  # keeps quotients of vectors that vanish finite


def _norm(rows: Array) -> Array:
  """The l2 norm of each row, flattened, `[b]`."""
  return jnp.linalg.norm(rows.reshape(len(rows), -1).astype(jnp.float32), axis=1)


def _pool(features: Array) -> Array:
  """The mean over space, `[b, c]`."""
  return features.reshape(len(features), -1, features.shape[-1]).mean(axis=1)


def gradient_alignment(
  outputs_fn: LogitsFn,
  x: Images,
  labels: Any,
  keys: Rng,
  *,
  attack: Callable[[Any], Attack],
  eps: Any,
) -> Columns:
  """`cos(grad l(x), grad l(x + eta))`, eta ~ U(+-eps), and the cosine of FGSM and the attack.

  l is the mean of the exits' cross entropies. Near 1 the loss is close to linear in the ball, and
  one step finds what many do; both fall with catastrophic overfitting.

  Guarantees:
    `linear_nets_are_aligned`: of a linear net with two classes, `noise` is 1.

  Args:
    outputs_fn, x, labels, keys: as those of `clean_exits`.
    attack: `eps -> attack`, in the l-infinity ball, with several steps.
    eps: radius, in units of the image; may be traced.

  Returns:
    Values `[b]`: `noise`, the cosine of the two gradients; `directions`, that of the perturbations
    of FGSM, from x with a step of eps, and of the attack, both clipped to [0, 1]; `vanished`, 1
    where one of the gradients is 0. Such an image counts as 0 in `noise`; GradAlign leaves it out:
    the mean of `noise` over `1 - vanished` does so. A gradient that is not finite gives NaN.

  Raises:
    TypeError, ValueError: as `attacked_exits`.

  Reference: Andriushchenko and Flammarion, 2020, "Understanding and Improving Fast Adversarial
  Training", https://arxiv.org/abs/2007.02617.
  """
  exits_at = _exits_fn(outputs_fn, x, labels)
  given, labels, keys = labels, as_labels(labels, len(x)), as_keys(keys, len(x))
  ball = linf_ball(eps)
  check_ball("gradient_alignment", ball, x, per_pixel=True, minimum_norm=False)
  loss_fn = losses.over_exits(losses.cross_entropy)
  gradient = jax.grad(lambda x: jnp.sum(loss_fn(exits_at(x, keys), labels)))
  here, there = gradient(x), gradient(x + ball.sample(fold(keys, _NOISE), jnp.asarray(x)))
  one_step = fgsm(outputs_fn, x, given, keys, ball=ball) - x
  several = attack_images(attack, eps, outputs_fn, x, given, keys) - x
  # Not by the norm, whose squares underflow where a net is sure of itself.
  is_zero = [jnp.all(rows.reshape(len(x), -1) == 0, axis=1) for rows in (here, there)]
  return {
    "noise": losses.cosines(here, there),
    "directions": losses.cosines(one_step, several),
    "vanished": is_zero[0] | is_zero[1],
  }


DIAGNOSTICS: dict[str, Callable[..., Columns]] = {
  "attacked_exits": attacked_exits,
  "clean_exits": clean_exits,
  "denoising_error": denoising_error,
  "feature_distance": feature_distance,
  "gradient_alignment": gradient_alignment,
}
"""The evaluators of this file and of `denoising` by the name that a config gives them."""

KNOWN = collections.ChainMap(EVALUATORS, DIAGNOSTICS)
"""All evaluators that a config may name; another one is put into `EVALUATORS`."""
