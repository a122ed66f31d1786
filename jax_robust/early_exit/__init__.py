"""Early exits: which exit answers for an image, at what confidence, and what that costs."""

from jax_robust.early_exit.costs import (
  CommonThreshold,
  common_threshold,
  efficacy,
  exit_fractions,
  expected_cost,
  slowdown_report,
)
from jax_robust.early_exit.risk import RiskControl, risk_control
from jax_robust.early_exit.rules import (
  answer,
  check_thresholds,
  confidences,
  early_exit,
  exit_taken,
)

__all__ = [
  "CommonThreshold",
  "RiskControl",
  "answer",
  "check_thresholds",
  "common_threshold",
  "confidences",
  "early_exit",
  "efficacy",
  "exit_fractions",
  "exit_taken",
  "expected_cost",
  "risk_control",
  "slowdown_report",
]
