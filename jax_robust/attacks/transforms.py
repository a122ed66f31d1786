"""Wrappers `logits_fn -> logits_fn` that choose what of a classifier is attacked."""

from jax_robust.types import Attack, LogitsFn


def exit_at(logits_fn: LogitsFn, k: int) -> LogitsFn:
  """The k-th exit of a multi-exit classifier, by itself; negative k counts from the last.

  Args:
    logits_fn: `x -> tuple of logits`, early exits first.
    k: number of the exit, from 0.

  Returns:
    `x -> logits [b, k]`.

  Raises:
    ValueError: (when called) the classifier has a single exit, or no such exit.

  >>> import jax.numpy as jnp
  >>> exit_at(lambda x: (x, 2 * x), 1)(jnp.ones((1, 2))).tolist()
  [[2.0, 2.0]]
  """

  def logits_of_one_exit(*args):
    exits = _exits(logits_fn(*args))
    if not -len(exits) <= k < len(exits):
      raise ValueError(f"k={k}: expected an exit from 0 to {len(exits) - 1}")
    return exits[k]

  return logits_of_one_exit


def mean_of_exits(logits_fn: LogitsFn) -> LogitsFn:
  """The mean of the logits over the exits: the exits as an ensemble.

  Attacking a tuple directly ascends the mean of the exits' losses instead, which wants every exit
  fooled.

  Args:
    logits_fn: `x -> tuple of logits`.

  Returns:
    `x -> logits [b, k]`.

  Raises:
    ValueError: (when called) the classifier has a single exit.

  >>> import jax.numpy as jnp
  >>> mean_of_exits(lambda x: (x, 2 * x))(jnp.ones((1, 2))).tolist()
  [[1.5, 1.5]]
  """

  def mean_logits(*args):
    exits = _exits(logits_fn(*args))
    return sum(exits) / len(exits)

  return mean_logits


def transfer(attack: Attack, surrogate_fn: LogitsFn) -> Attack:
  """An attack whose examples are made on another classifier: black-box, without a single query.

  The result is an attack like any other, to be evaluated on the classifier under test, which it is
  given and never asks. Whether its examples fool that classifier is for the evaluation to say: none
  is taken back where it does not, nor where the classifier erred at x and no longer does.

  The targets are the true ones, not what the surrogate predicts. A minimum-norm attack, and any
  that ends at success, stops just beyond the surrogate's boundary, and leaves x alone where the
  surrogate errs by itself; attacks that go on transfer further: `mim`, `pgd`, or `cw_linf` with its
  default confidence.

  Guarantees:
    `victim_is_never_asked`: the result does not depend on the `logits_fn` that it is given.
    `transfer_is_the_attack_on_the_surrogate`: bitwise.

  Args:
    attack: any attack.
    surrogate_fn: what it is run on: `x -> outputs`, or `(x, rng) -> outputs`; of the same classes
      as the classifier under test.

  Returns:
    `attack(logits_fn, x, targets, rng) -> x_adv`; it takes the attack's keywords.

  Reference: Papernot et al., 2016, "Transferability in Machine Learning",
  https://arxiv.org/abs/1605.07277.

  >>> import functools, jax, jax.numpy as jnp
  >>> from jax_robust import attacks
  >>> fgsm = functools.partial(attacks.fgsm, ball=attacks.linf_ball(0.25))
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> transfer(fgsm, lambda x: 2 * x)(lambda x: x, x, labels, jax.random.key(0)).tolist()
  [[0.25, 0.75]]
  """

  def transferred(logits_fn, x, targets, rng, **options):
    del logits_fn
    return attack(surrogate_fn, x, targets, rng, **options)

  return transferred


def _exits(outputs):
  """The exits' outputs; a bare array would be cut along its batch."""
  if not isinstance(outputs, tuple):
    raise ValueError("logits_fn returned one array: expected a tuple with one entry per exit")
  return outputs
