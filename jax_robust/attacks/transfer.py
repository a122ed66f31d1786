"""Transfer attacks: adversarial examples made on a surrogate model."""

from jax_robust.errors import check_function
from jax_robust.types import Attack, LogitsFn


def transfer(attack: Attack, surrogate_fn: LogitsFn) -> Attack:
  """An attack whose examples are made on a surrogate: black-box, without a query of the model.

  The result is an attack like any other, for an evaluation of the model under test, whose
  `logits_fn` it is given and never calls. Whether its examples fool that model is for the
  evaluation to say.

  The targets are the true ones, not what the surrogate predicts. A minimum-norm attack, and any
  that ends at success, stops just beyond the surrogate's boundary, and leaves x alone where the
  surrogate errs by itself; attacks that go on transfer further: `mim`, `pgd`, or `cw_linf` with its
  default confidence.

  Guarantees:
    `victim_is_never_queried`: the result does not depend on the `logits_fn` that it is given.
    `transfer_is_the_attack_on_the_surrogate`: bitwise.

  Args:
    attack: any attack.
    surrogate_fn: the model that it runs on, of the same classes as the model under test.

  Returns:
    `attack(logits_fn, x, targets, rng) -> x_adv`; it takes the attack's keywords.

  Raises:
    TypeError: the attack or the surrogate is no function.

  Reference: Papernot et al., 2016, "Transferability in Machine Learning",
  https://arxiv.org/abs/1605.07277.

  >>> import functools, jax, jax.numpy as jnp
  >>> from jax_robust import attacks
  >>> fgsm = functools.partial(attacks.fgsm, ball=attacks.linf_ball(0.25))
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> transfer(fgsm, lambda x: 2 * x)(lambda x: x, x, labels, jax.random.key(0)).tolist()
  [[0.25, 0.75]]
  """

  check_function(", such as functools.partial(attacks.mim, ball=...)", attack=attack)
  check_function(" of images x that returns logits", surrogate_fn=surrogate_fn)

  def transferred(logits_fn, x, targets, rng, **options):
    del logits_fn
    return attack(surrogate_fn, x, targets, rng, **options)

  return transferred
