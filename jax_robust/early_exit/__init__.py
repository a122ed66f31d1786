"""Early exits: which exit answers for an image, at what confidence, and what that costs."""

from jax_robust.early_exit.budget import (
  BUDGETS,
  Budgeted,
  choose_thresholds,
  sweep,
  target_fractions,
)
from jax_robust.early_exit.costs import (
  CommonThreshold,
  common_threshold,
  efficacy,
  exit_fractions,
  expected_cost,
  slowdown_report,
)
from jax_robust.early_exit.inference import Answers, compile_blocks, make_deployed
from jax_robust.early_exit.risk import RiskControl, risk_control
from jax_robust.early_exit.rules import (
  answer,
  check_thresholds,
  confidences,
  early_exit,
  exit_taken,
  first_confident,
)

__all__ = [
  "BUDGETS", "Answers", "Budgeted", "CommonThreshold", "RiskControl", "answer",
  "check_thresholds", "choose_thresholds", "common_threshold", "compile_blocks", "confidences",
  "early_exit", "efficacy", "exit_fractions", "exit_taken", "expected_cost", "first_confident",
  "make_deployed", "risk_control", "slowdown_report", "sweep", "target_fractions",
]  # fmt: skip
