"""Early exits: which exit answers for an image, at what confidence, and what that costs."""

from jax_robust.early_exit.rules import (
  answer,
  check_thresholds,
  confidences,
  early_exit,
  exit_taken,
)

__all__ = ["answer", "check_thresholds", "confidences", "early_exit", "exit_taken"]
