"""Losses of logits, per example: nothing is reduced over the batch. Attacks ascend them.

They take the logits of one exit, `[b, k]`; `over_exits` lifts them to a tuple of exits, but for
those that are made for the tuple, such as `cross_entropy_to_uniform`. All take labels or
probabilities, as `errors.check_targets` describes them; a loss of the true class takes the arg max
of probabilities, the first of several.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_robust.errors import as_array, check_function, check_per_image, check_targets, check_weight
from jax_robust.nets.exits import exits_of, predictions
from jax_robust.types import LossFn

Logits = Float[Array, "b k"] | tuple  # a tuple is refused, with the remedy

_DLR_OFFSET = 1e-12  # as in the reference program
_TAKES_EXITS = "takes_exits"  # an attribute of losses that are made for a tuple of exits


def as_targets(
  targets: Any, num_images: int | None = None, num_classes: int | None = None
) -> Int[Array, " b"] | Float[Array, "b k"]:
  """Targets in one of two forms: labels `[b]`, int32, or probabilities `[b, k]`, floating-point.

  Args:
    targets: as `errors.check_targets` describes them.
    num_images, num_classes: where they are known, for the check.

  Raises:
    TypeError, ValueError: as `errors.check_targets`.

  >>> as_targets([[1], [0]]).tolist(), as_targets([[False, True]]).tolist()
  ([1, 0], [[0.0, 1.0]])
  """
  targets = as_array(targets, "targets")
  check_targets(targets, num_images, num_classes)
  targets = jnp.asarray(targets)
  if jnp.issubdtype(targets.dtype, jnp.floating):
    return targets
  if targets.ndim == 1 or targets.shape[1] == 1:
    return targets.reshape(-1).astype(jnp.int32)
  return targets.astype(jnp.float32)  # one-hot


def as_labels(
  targets: Any, num_images: int | None = None, num_classes: int | None = None
) -> Int[Array, " b"]:
  """Integer labels; of probabilities `[b, k]` the arg max, the first of several.

  Args, Raises: as those of `as_targets`.

  >>> as_labels(jnp.array([[0.2, 0.8]])).tolist()
  [1]
  """
  targets = as_targets(targets, num_images, num_classes)
  return targets if targets.ndim == 1 else jnp.argmax(targets, axis=-1).astype(jnp.int32)


def cross_entropy(outputs: Logits, targets: Any) -> Float[Array, " b"]:
  """Cross entropy `-sum_k t_k log softmax(z)_k` of each example.

  Args:
    outputs: logits z, `[b, k]`.
    targets: labels `[b]`, or probabilities t `[b, k]`.

  Returns:
    One loss per example, `[b]`, in nats.

  >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4)
  Array([1.3863], dtype=float32)
  """
  outputs = _one_exit(outputs, "cross_entropy")
  log_probs, targets = jax.nn.log_softmax(outputs), as_targets(targets, *outputs.shape)
  if targets.ndim == 1:
    return -jnp.take_along_axis(log_probs, targets[:, None], axis=-1)[:, 0]
  return -jnp.sum(targets * log_probs, axis=-1)


def kl_divergence(outputs: Logits, targets: Any) -> Float[Array, " b"]:
  """`KL(t || softmax(z)) = sum_k t_k (log t_k - log softmax(z)_k)` of each example.

  TRADES' inner maximisation and its penalty: t is the clean prediction, z the logits under attack.
  The gradient flows through both arguments; stop it outside where only one side should learn.

  Guarantees:
    `kl_is_zero_at_its_reference`: the value and its gradient in z vanish at softmax(z) = t.
    `kl_takes_zero_probabilities`: t_k = 0 contributes 0, with a finite gradient.

  Args:
    outputs: logits z, `[b, k]`.
    targets: reference probabilities t, `[b, k]`; labels `[b]` count as one-hot.

  Returns:
    One divergence per example, `[b]`, in nats.

  >>> z = jnp.array([[1.0, 2.0]])
  >>> float(abs(kl_divergence(z, jax.nn.softmax(z)))[0]) < 1e-6
  True
  """
  outputs = _one_exit(outputs, "kl_divergence")
  targets = as_targets(targets, *outputs.shape)
  if targets.ndim == 1:
    targets = jax.nn.one_hot(targets, outputs.shape[1], dtype=outputs.dtype)
  # xlogy's gradient at t = 0 is -inf; such entries are cut out before the logarithm.
  safe = jnp.where(targets > 0, targets, 1.0)
  entropy_terms = jnp.where(targets > 0, targets * jnp.log(safe), 0.0)
  return jnp.sum(entropy_terms - targets * jax.nn.log_softmax(outputs), axis=-1)


def margin(outputs: Logits, targets: Any) -> Float[Array, " b"]:
  """`max_{k != y} z_k - z_y`: positive exactly where the example is misclassified.

  Args:
    outputs: logits z, `[b, k]`.
    targets: labels `[b]`, or probabilities `[b, k]`, whose arg max is taken for y.

  Returns:
    One margin per example, `[b]`, in units of the logits. A tie is 0.

  Reference: Carlini and Wagner, 2017, "Towards Evaluating the Robustness of Neural Networks".

  >>> margin(jnp.array([[3.0, 1.0, 2.5]]), jnp.array([0])).tolist()
  [-0.5]
  """
  outputs = _one_exit(outputs, "margin")
  labels = as_labels(targets, *outputs.shape)
  is_true = jax.nn.one_hot(labels, outputs.shape[1], dtype=bool)
  true_logit = jnp.sum(jnp.where(is_true, outputs, 0.0), axis=-1)
  # -inf, not a large constant: 1e8 is no longer exact in float16 and bfloat16.
  best_other = jnp.max(jnp.where(is_true, -jnp.inf, outputs), axis=-1)
  return best_other - true_logit


def dlr(outputs: Logits, targets: Any) -> Float[Array, " b"]:
  """Difference of logits ratio: `(max_{k != y} z_k - z_y) / (z_1st - z_3rd)`, to be ascended.

  Negative where the example is classified correctly, as `margin` is, but blind to the scale of the
  logits, so that no gradient vanishes because a model is confident. Logarithms of probabilities
  give what logits give.

  Guarantees:
    `dlr_ignores_shift_and_scale`: of the logits of an example.
    `dlr_has_the_sign_of_the_margin`.

  Args:
    outputs: logits z, `[b, k]`, k >= 3.
    targets: labels `[b]`, or probabilities `[b, k]`, whose arg max is taken for y.

  Returns:
    One loss per example, `[b]`, without unit. 1e-12 is added to the denominator, so equal logits
    give 0.

  Raises:
    ValueError: fewer than 3 classes.

  Reference: Croce and Hein, 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble
  of Diverse Parameter-free Attacks", https://arxiv.org/abs/2003.01690.

  >>> dlr(jnp.array([[3.0, 1.0, 2.5]]), jnp.array([0])).tolist()
  [-0.25]
  """
  outputs = _with_classes(outputs, 3, "dlr")
  top = jax.lax.top_k(outputs, 3)[0]
  return margin(outputs, targets) / (top[:, 0] - top[:, 2] + _DLR_OFFSET)


def towards(loss_fn: LossFn) -> LossFn:
  """The loss that leads to goals: `-loss_fn(outputs, goals)`, to be ascended.

  Raises:
    ValueError: of `dlr`, which is constant where the goal is the third class or a later one.

  >>> towards(margin)(jnp.array([[3.0, 1.0, 2.5]]), jnp.array([2])).tolist()
  [-0.5]
  """
  _check_is_loss(loss_fn)
  if loss_fn is dlr:
    raise ValueError(
      "loss_fn is dlr, which has no gradient towards a goal that is not among the two largest "
      "logits: with goals take cross_entropy or margin"
    )

  def loss_towards(outputs, goals):
    return -loss_fn(outputs, goals)

  return wrapped_as(loss_fn, loss_towards)


def targeted_dlr(outputs: Logits, labels: Any, goals: Any) -> Float[Array, " b"]:
  """Targeted DLR: `(z_goal - z_y) / (z_1st - (z_3rd + z_4th) / 2)`, to be ascended.

  Guarantees:
    `targeted_dlr_ignores_shift_and_scale`: of the logits of an example.

  Args:
    outputs: logits z, `[b, k]`, k >= 4.
    labels: true classes y, `[b]`, or probabilities `[b, k]`, whose arg max is taken.
    goals: the target classes, `[b]`.

  Returns:
    One loss per example, `[b]`, without unit: positive where the goal is ahead of y.

  Raises:
    ValueError: fewer than 4 classes.

  Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690.

  >>> targeted_dlr(jnp.array([[4.0, 3.0, 2.0, 2.0]]), jnp.array([0]), jnp.array([2])).tolist()
  [-1.0]
  """
  outputs = _with_classes(outputs, 4, "targeted_dlr")
  top = jax.lax.top_k(outputs, 4)[0]
  true_logit, goal_logit = (
    jnp.take_along_axis(outputs, as_labels(each, *outputs.shape)[:, None], axis=-1)[:, 0]
    for each in (labels, goals)
  )
  return (goal_logit - true_logit) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _DLR_OFFSET)


def _one_exit(outputs: Any, name: str) -> Array:
  """The logits; raises where they are those of several exits, with the remedy."""
  exits = exits_of(outputs)
  if len(exits) > 1:
    raise ValueError(
      f"outputs are a tuple of {len(exits)} exits: losses.{name} takes one array of logits; take "
      f"losses.over_exits(losses.{name}), the mean over the exits, or choose one of them with "
      "nets.exits.select_exit(logits_fn, exit)"
    )
  return exits[0]


def _with_classes(outputs: Any, num_needed: int, name: str) -> Array:
  """The logits in float32 at least, where 1e-12 is not 0; raises if there are too few classes."""
  outputs = _one_exit(outputs, name)
  if outputs.shape[-1] < num_needed:
    raise ValueError(
      f"outputs have {outputs.shape[-1]} classes: {name} needs at least {num_needed}, since its "
      "denominator is made of that many logits; cross_entropy and margin work with 2"
    )
  return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def over_exits(loss_fn: LossFn) -> LossFn:
  """Lifts a per-example loss to the mean over the exits of a multi-exit model.

  A single array of logits counts as the only exit. Targets may be a tuple too, one entry per exit.
  A loss of all exits (`of_all_exits`), such as one that was lifted already, is given back.

  Raises:
    TypeError: the loss is no function.
    ValueError: (when called) it is not one number for each example; targets of another number of
      exits.

  >>> z = jnp.zeros((1, 2))
  >>> over_exits(cross_entropy)((z, z), jnp.array([0])).round(3).tolist()
  [0.6930000185966492]
  """
  _check_is_loss(loss_fn)
  if _takes_exits(loss_fn):
    return loss_fn

  def loss_over_exits(outputs, targets):
    exits = exits_of(outputs)
    if not isinstance(targets, tuple) or not any(map(np.ndim, targets)):
      targets = (targets,) * len(exits)
    if len(targets) != len(exits):
      raise ValueError(
        f"targets are a tuple of {len(targets)} arrays, one for each exit: the net has "
        f"{len(exits)} exits"
      )
    each = [_per_example(loss_fn(*pair), pair[0]) for pair in zip(exits, targets, strict=True)]
    return each[0] if len(each) == 1 else sum(each[1:], each[0]) / len(each)

  return of_all_exits(loss_over_exits)


def of_all_exits(loss_fn: LossFn) -> LossFn:
  """The loss, as one that takes the tuple of exits as it is: `over_exits` leaves it alone.

  Args:
    loss_fn: `(outputs, targets) -> [b]`; it is not changed itself.

  Raises:
    TypeError: it is no function.
    ValueError: (when called) what it returns is not one number for each example.

  >>> last = of_all_exits(lambda outputs, targets: cross_entropy(outputs[-1], targets))
  >>> z = jnp.zeros((1, 2))
  >>> over_exits(last)((z, 9 * z), jnp.array([0])).round(3).tolist()
  [0.6930000185966492]
  """
  _check_is_loss(loss_fn)

  @functools.wraps(loss_fn, updated=())
  def loss_of_all_exits(outputs, *args, **options):
    return _per_example(loss_fn(outputs, *args, **options), exits_of(outputs)[0])

  setattr(loss_of_all_exits, _TAKES_EXITS, True)
  return loss_of_all_exits


def wrapped_as(
  loss_fn: Callable[..., Array], wrapper: Callable[..., Array]
) -> Callable[..., Array]:
  """What wraps a loss: with `of_all_exits` where the loss itself is."""
  return of_all_exits(wrapper) if _takes_exits(loss_fn) else wrapper


def _takes_exits(loss_fn: Callable[..., Array]) -> bool:
  """Whether a loss, or what a partial is made of, is marked so."""
  while isinstance(loss_fn, functools.partial):
    loss_fn = loss_fn.func
  return getattr(loss_fn, _TAKES_EXITS, False)


def _check_is_loss(loss_fn: Any) -> None:
  """Raises TypeError for a name, or anything else that is no function."""
  check_function(", such as losses.margin", loss_fn=loss_fn)


def _per_example(loss: Any, logits: Array) -> Any:
  """The loss itself; raises unless it is one number for each example."""
  if jnp.shape(loss) != logits.shape[:1]:
    raise ValueError(
      f"loss_fn returned shape {jnp.shape(loss)}: expected {logits.shape[:1]}, one number for each "
      "example, without a mean or sum over the batch"
    )
  return loss


@of_all_exits
def cross_entropy_to_uniform(outputs: Any, targets: Any = None) -> Float[Array, " b"]:
  """How far the exits before the last are from knowing nothing; low where none is confident.

  `sum_{e < E} -1/k sum_c log softmax(z_e)_c`: of every exit but the last, the cross entropy of its
  softmax to the uniform distribution. A slowdown attack descends it.

  Guarantees:
    `uniform_exits_are_the_least`: (E - 1) log k, exactly where all those softmax are uniform.

  Args:
    outputs: a tuple of logits, two exits or more, each `[b, k]`.
    targets: unused; a loss has them.

  Returns:
    One loss per example, `[b]`, in nats.

  Raises:
    ValueError: there is one exit.

  Reference: Hong et al., 2021, "A Panda? No, It's a Sloth: Slowdown Attacks on Adaptive Multi-Exit
  Neural Network Inference", https://arxiv.org/abs/2010.02432.

  >>> early, last = jnp.zeros((1, 4)), jnp.ones((1, 4))
  >>> cross_entropy_to_uniform((early, last)).round(4)
  Array([1.3863], dtype=float32)
  """
  del targets
  exits = exits_of(outputs)
  if len(exits) < 2:
    raise ValueError(
      "outputs are those of 1 exit: slowdown needs a net of several, since it keeps images from "
      "leaving at an exit before the last"
    )
  each = [-jnp.mean(jax.nn.log_softmax(logits), axis=-1) for logits in exits[:-1]]
  return sum(each[1:], each[0])


def slowdown_loss(
  *,
  weight: Array | float = 0.0,
  loss_fn: LossFn = cross_entropy,
  answer_fn: Callable[[Any], Array] = predictions,
) -> LossFn:
  """The loss of an attack on cost and accuracy, to be ascended.

  `-cross_entropy_to_uniform(outputs) + weight * loss_fn(answer_fn(outputs), targets)`.

  Args:
    weight: of the misclassification, one number or one for each image; 0 is an attack on the cost
      alone.
    loss_fn: per-example loss of one exit.
    answer_fn: `outputs -> logits [b, k]` that shall be wrong. Default: those of the last exit,
      where an image that is slowed down ends. Of the exit taken it is
      `lambda outputs: early_exit.answer(outputs, thresholds)[0]`.

  Returns:
    `(outputs, targets) -> [b]`, of all exits.

  Raises:
    TypeError, ValueError: a weight that is no finite number of at least 0; `loss_fn` or `answer_fn`
      is no function.

  >>> early, last = jnp.zeros((1, 4)), jnp.zeros((1, 4))
  >>> loss = slowdown_loss(weight=3.0)((early, last), jnp.array([1]))
  >>> (loss / jnp.log(4)).tolist()
  [2.0]
  """
  check_weight(weight=weight)
  _check_is_loss(loss_fn)
  check_function(" outputs -> logits [b, k]", answer_fn=answer_fn)

  def loss_of_exits(outputs, targets):
    slow = -cross_entropy_to_uniform(outputs, targets)
    if isinstance(weight, (int, float)) and not weight:
      return slow
    check_per_image(len(slow), weight=weight)
    answer = answer_fn(outputs)
    return slow + weight * _per_example(loss_fn(answer, targets), predictions(answer))

  return of_all_exits(loss_of_exits)


def cosines(
  first: Float[Array, "b *dims"], second: Float[Array, "b *dims"], *, of_zero: float = 0.0
) -> Float[Array, " b"]:
  """The cosine of the angle between two arrays, such as gradients, of each example.

  Guarantees:
    `small_gradients_keep_their_angle`: their squares, which float32 can't hold, are not taken.
    Derivatives are finite, and zero where an array is zero. What holds NaN or infinity gives NaN.

  Args:
    first, second: floating-point, of one shape; float16 and bfloat16 are summed in float32.
    of_zero: what stands where one of them is zero and there is no angle.

  Returns:
    `[b]`, float32 at least.

  Raises:
    TypeError: no floating-point arrays.
    ValueError: of two shapes, or empty.

  >>> one, other = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[4.0, 3.0], [1.0, 0.0]])
  >>> cosines(one, other).round(4)
  Array([0.96, 0.  ], dtype=float32)
  """
  for name, each in (("first", first), ("second", second)):
    if not hasattr(each, "dtype") or not jnp.issubdtype(each.dtype, jnp.floating):
      kind = f"has dtype {each.dtype}" if hasattr(each, "dtype") else f"is a {type(each).__name__}"
      raise TypeError(f"{name} {kind}: expected a floating-point array [b, ...]")
  if jnp.shape(first) != jnp.shape(second) or jnp.ndim(first) < 2 or not first.size:
    raise ValueError(
      f"first has shape {jnp.shape(first)} and second {jnp.shape(second)}: expected one shape "
      "[b, ...], of at least one number for each of at least one example"
    )
  dtype = jnp.promote_types(jnp.promote_types(first.dtype, second.dtype), jnp.float32)
  rows = [jnp.reshape(each, (len(each), -1)).astype(dtype) for each in (first, second)]
  sizes = [jnp.max(jnp.abs(each), axis=1, keepdims=True) for each in rows]
  some = (sizes[0] != 0) & (sizes[1] != 0)  # of NaN too, so that the cosine is NaN
  one, other = (
    jnp.where(some, each, 1.0) / jax.lax.stop_gradient(jnp.where(some, size, 1.0))
    for each, size in zip(rows, sizes, strict=True)
  )
  norms = jnp.sqrt(jnp.sum(one**2, axis=1) * jnp.sum(other**2, axis=1))
  return jnp.where(some[:, 0], jnp.sum(one * other, axis=1) / norms, of_zero)


LOSSES = {
  "cross_entropy": cross_entropy,
  "kl_divergence": kl_divergence,
  "margin": margin,
  "dlr": dlr,
}
"""The losses by the name a config gives them."""
