"""The representation of a net: what its last layer reads."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jax_robust.errors import near_miss

HEAD = "logits"
"""What the last layer is called in our nets."""

ACTIVATE = "activate"
"""The method by which our nets and their blocks call their activation."""


def representation(
  net: nn.Module,
  variables: Mapping[str, Any],
  x: Float[Array, "b h w c"],
  *,
  head: str = HEAD,
  identity_backward: bool = False,
) -> Float[Array, "b d"]:
  """The input of a net's last layer in eval mode: of our nets the mean over space of the features.

  It works for any Linen net that is called as `net(x, train=...)`, whose last layer has a name; any
  other function of images will do for `attacks.invert`.

  Guarantees:
    `head_reads_it`: the last layer, applied to it, gives the net's logits.
    `identity_backward_keeps_values`: to rounding, and for ReLU exactly.

  Args:
    net: the module.
    variables: `params` and, if there are any, running statistics.
    x: images in [0, 1].
    head: name of the last layer; of several of that name, as a net with exits has, the path of one,
      such as 'exit_4/logits'.
    identity_backward: differentiate the last activation before the head as if it were the identity,
      so that units that are off have a gradient too. It is found as the last call of a method named
      `activate`.

  Returns:
    `[b, d]`.

  Raises:
    ValueError: no layer of that name is called, or several; `identity_backward` of a net without
      such a method.

  >>> import jax.numpy as jnp
  >>> from jax_robust import models
  >>> net = models.create("small_cnn", num_classes=10)
  >>> variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  >>> representation(net, variables, jnp.zeros((2, 8, 8, 3))).shape
  (2, 64)

  Reference: Engstrom et al., 2019, "Adversarial Robustness as a Prior for Learned Representations",
  https://arxiv.org/abs/1906.00945, and its program, whose last ReLU has the identity's derivative.
  """
  last = 0
  if identity_backward:
    last = _count_activations(net, variables, x, head)
    if not last:
      raise ValueError(
        f"{type(net).__name__} calls no method {ACTIVATE!r} before its layer {head!r}, so which "
        "activation is the last can't be known: give attacks.invert a features_fn of your own"
      )
  return _apply(net, variables, x, head, last)[0]


def make_features_fn(
  net: nn.Module, variables: Mapping[str, Any], **options: Any
) -> Callable[[Any], Any]:
  """`features_fn(x) -> [b, d]` of a net, for `attacks.invert`; options of `representation`."""
  return functools.partial(representation, net, variables, **options)


def _count_activations(net, variables, x, head: str) -> int:
  """How often the activation is called before the head; nothing is computed."""
  counts = []
  jax.eval_shape(lambda v, x: counts.append(_apply(net, v, x, head, 0)[1]), variables, x)
  return counts[0]


def _apply(net, variables, x, head: str, last: int) -> tuple[Array, int]:
  """The input of the head, and the number of activations before it; the one numbered `last`, from
  1 on, has the identity's derivative.
  """
  found: dict[str, tuple[Array, int]] = {}
  called, count = [], 0

  def watch(next_fun, args, kwargs, context):
    nonlocal count
    path = "/".join(context.module.path)
    if context.method_name == "__call__":
      called.append(path)
      if f"/{path}".endswith(f"/{head}") and args:
        found[path] = (args[0], count)
    made = next_fun(*args, **kwargs)
    if context.method_name == ACTIVATE and args:
      count += 1
      if count == last:  # the value of the activation, the derivative of its input
        return args[0] + jax.lax.stop_gradient(made - args[0])
    return made

  with nn.intercept_methods(watch):
    net.apply(variables, x, train=False)
  if len(found) != 1:
    layers = sorted({path for path in called if path})
    problem = f"is called {len(found)} times: {', '.join(found)}; give the path of one of them"
    if not found:
      problem = f"is none of its layers{near_miss(head, layers)}"
    raise ValueError(f"head={head!r} {problem} ({type(net).__name__})")
  return next(iter(found.values()))
