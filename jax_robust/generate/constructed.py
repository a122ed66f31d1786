"""Constructed sets: training sets whose labels a net sees in the images, whatever people see there.

| set | image | label |
|---|---|---|
| `d_rand` | an original, moved in a ball until the net takes it for the label | drawn at random |
| `d_det` | the same | the class after the original's |
| `d_robust` | another one, moved until a robust net's features are the original's | its own |
| `d_non_robust` | the same, by a net of standard training | its own |
| `d_bugs` | as in `d_det`, but other nets shall see the original's class | as in `d_det` |

Everything here is pure, for each image by itself, and can be compiled.

Reference: Ilyas et al., 2019, "Adversarial Examples Are Not Bugs, They Are Features",
https://arxiv.org/abs/1905.02175, section 3 and appendix C; of `d_bugs`, Nakkiran, 2019,
"Adversarial Examples are Just Bugs, Too", Distill.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from jax_robust import attacks, losses
from jax_robust.errors import check_count, check_positive
from jax_robust.types import Images, LogitsFn, Rng, fold

TARGETED = ("d_rand", "d_det")
"""The sets that are made by a targeted attack."""

DISENTANGLED = "d_bugs"
"""The set whose perturbations mean nothing to other nets."""

INVERTED = ("d_robust", "d_non_robust")
"""The sets that are made by inversion of a representation."""

_TARGET, _START = 0x7A96E7, 0x57A97  # folded into an image's key for its target, and its start


def random_targets(keys: Key[Array, " b"], num_classes: int) -> Int[Array, " b"]:
  """A class for each image, drawn from all with equal probability: the image's own among them.

  Guarantees:
    `targets_are_independent`: they depend on the keys alone, not on image or label.

  >>> bool((random_targets(jax.random.split(jax.random.key(0), 9), 3) < 3).all())
  True
  """
  check_count(2, num_classes=num_classes)
  draw = lambda key: jax.random.randint(key, (), 0, num_classes)  # noqa: E731
  return jax.vmap(draw)(fold(keys, _TARGET))


def next_targets(labels: Int[Array, " b"], num_classes: int) -> Int[Array, " b"]:
  """The class after each label, the first one after the last.

  >>> next_targets(jnp.array([0, 1, 2]), 3).tolist()
  [1, 2, 0]
  """
  check_count(2, num_classes=num_classes)
  return (labels + 1) % num_classes


def start_rows(keys: Key[Array, " b"], num_examples: int) -> Int[Array, " b"]:
  """For each image the place of another, drawn from all: where its inversion starts.

  Guarantees:
    `starts_are_independent`: they depend on the keys alone. A start that depended on the label
      would leave features in the image that no net had a part in.

  >>> start_rows(jax.random.split(jax.random.key(0), 2), 1).tolist()
  [0, 0]
  """
  check_count(num_examples=num_examples)
  draw = lambda key: jax.random.randint(key, (), 0, num_examples)  # noqa: E731
  return jax.vmap(draw)(fold(keys, _START))


def move_to_targets(
  logits_fn: LogitsFn,
  x: Images,
  targets: Int[Array, " b"],
  rng: Rng,
  *,
  eps: Any,
  num_steps: int = 100,
  step_size: Any = 0.1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Images in the l2 ball with the least cross entropy to the targets: PGD from x, best iterate.

  Unlike with `goals` of an attack, a target may be the image's own class.

  Guarantees:
    `result_is_in_ball_and_box`, as of every attack.
    `loss_never_grows`: it is at most that at x, and more steps never make it larger.

  Args:
    logits_fn: `x -> logits`, of one exit.
    x: images in [0, 1], `[b, ...]`.
    targets: the classes that they shall be taken for, `[b]`.
    rng: a key, or one per image; of a net that draws nothing, without effect.
    eps: radius in l2, in units of the image, above 0.
    num_steps: gradient steps; static. On a CPU more than 64 are slow: see `default_unroll`.
    step_size: in l2, in units of the image.
    unroll: as that of `attacks.pgd`.

  Returns:
    `[b, ...]`, floating-point.

  Raises:
    ValueError: eps is not above 0; as `attacks.pgd`.
  """
  check_positive(eps=eps)
  return attacks.pgd(
    logits_fn, x, targets, rng, ball=attacks.l2_ball(eps),
    loss_fn=losses.towards(losses.cross_entropy), num_steps=num_steps, step_size=step_size,
    start="zero", keep_best=True, unroll=unroll,
  )  # fmt: skip


def move_disentangled(
  logits_fn: LogitsFn,
  others: Sequence[LogitsFn],
  x: Images,
  targets: Int[Array, " b"],
  labels: Int[Array, " b"],
  rng: Rng,
  *,
  eps: Any,
  num_steps: int = 10,
  step_size: Any = 0.5,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Images that one net takes for the targets, and others for what they are: disentangled PGD.

  In the l2 ball, from x, it descends L(f(z), t) + mean_i L(f_i(z), y), L the cross entropy, and
  returns the best iterate. What is left of a perturbation that other nets do not see is a bug of f,
  not a feature of the data.

  Guarantees: those of `move_to_targets`, of that loss.

  Args:
    logits_fn: f, `x -> logits`, of one exit.
    others: f_i, at least one.
    x, targets, rng, eps, unroll: as those of `move_to_targets`.
    labels: y, the true classes, `[b]`.
    num_steps, step_size: of PGD; published for eps 2.5.

  Returns:
    `[b, ...]`, floating-point.

  Raises:
    ValueError: no other net; as `move_to_targets`.

  Reference: Nakkiran, 2019, "Adversarial Examples are Just Bugs, Too", Distill.
  """
  check_positive(eps=eps)
  if not others:
    raise ValueError("others=(): expected one net or more, which are to see the true classes")

  @losses.of_all_exits
  def loss_fn(outputs, wanted):
    each = [losses.cross_entropy(*pair) for pair in zip(outputs, wanted, strict=True)]
    return -(each[0] + sum(each[2:], each[1]) / (len(each) - 1))

  return attacks.pgd(
    lambda x: (logits_fn(x), *(other(x) for other in others)), x,
    (targets, *[labels] * len(others)), rng, ball=attacks.l2_ball(eps), loss_fn=loss_fn,
    num_steps=num_steps, step_size=step_size, start="zero", keep_best=True, unroll=unroll,
  )  # fmt: skip


def to_nearest_bytes(x: Float[Array, "b *dims"]) -> UInt8[Array, "b *dims"]:
  """Each pixel at the nearest of the 256 levels, which moves it by 1/510 at most.

  `attacks.to_uint8` rounds towards the original, so that a result stays in its ball, and takes a
  part of the perturbation away. Here a set is made to be learned from, and its ball is no promise:
  the nearest level takes nothing away on average.

  >>> to_nearest_bytes(jnp.array([[0.0, 0.4999, 1.0]])).tolist()
  [[0, 127, 255]]
  """
  return jnp.round(x * np.float32(255)).astype(jnp.uint8)
