"""A net as `x -> (features, logits)`, block by block: what diagnostics of features look at."""

from typing import Any

from jax_robust.errors import ConfigError
from jax_robust.evaluate.diagnostics import BlocksFn
from jax_robust.runs.nets import in_precision


def make_blocks_fn(
  net: Any, params: Any, model_state: Any, *, precision: str | None = None
) -> BlocksFn:
  """`blocks_fn(x) -> (features, logits)` of a net in eval mode, a tuple of one entry per block.

  The features of a block are its coarsest scale, which its exit reads.

  Args:
    net: a module with `num_blocks` and a method `run_block(state, number)`, such as `MSDNet`.
    params, model_state: its weights; they may be traced.
    precision: of matrix products and convolutions; None takes what the caller has set.

  Raises:
    ConfigError: the net has no blocks.
  """
  if not (hasattr(net, "run_block") and hasattr(net, "num_blocks")):
    raise ConfigError(
      f"model {type(net).__name__} has no blocks, that is no num_blocks and no run_block(state, "
      "number): features by depth need a net such as msdnet"
    )
  variables = {"params": params, **model_state}

  def blocks_fn(x):
    state, features, logits = x, [], []
    with in_precision(precision):
      for number in range(net.num_blocks):
        state, exit_logits = net.apply(variables, state, number, method="run_block")
        features.append(state[max(state)])
        logits.append(exit_logits)
    return tuple(features), tuple(logits)

  return blocks_fn
