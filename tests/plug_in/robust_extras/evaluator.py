"""An evaluator: whether the image upside down is classified correctly."""

from jax_robust.evaluate import evaluators


def upside_down(logits_fn, x, labels, keys):
  return {"correct": evaluators.clean(logits_fn, x[:, ::-1], labels, keys)["correct"]}


evaluators.EVALUATORS["upside_down"] = upside_down
