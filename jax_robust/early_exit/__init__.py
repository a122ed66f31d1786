"""Early exits: which exit answers for an image, at what confidence, and what that costs."""

from jax_robust.early_exit.budget import (
  BUDGETS,
  Budgeted,
  choose_thresholds,
  exit_fractions,
  expected_cost,
  sweep,
  target_fractions,
)
from jax_robust.early_exit.inference import Answers, compile_blocks, make_deployed
from jax_robust.early_exit.rules import (
  answer,
  check_thresholds,
  confidences,
  early_exit,
  exit_taken,
  first_confident,
)

__all__ = [
  "BUDGETS", "Answers", "Budgeted", "answer", "check_thresholds", "choose_thresholds",
  "compile_blocks", "confidences", "early_exit", "exit_fractions", "exit_taken", "expected_cost",
  "first_confident", "make_deployed", "sweep", "target_fractions",
]  # fmt: skip
