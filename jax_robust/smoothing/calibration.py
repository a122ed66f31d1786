"""Calibration: whether a model is correct as often as its confidence says."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_robust.errors import check_count
from jax_robust.smoothing.bounds import clopper_pearson


class Reliability(NamedTuple):
  """Images by their confidence, in b bins of equal width.

  Attributes:
    edges: of the bins, from 0 to 1, `[b + 1]`; a bin holds its upper edge.
    count: images in each bin, `[b]`.
    confidence: their mean confidence; NaN where there are none, `[b]`.
    accuracy: the share of them that is correct; NaN where there are none, `[b]`.
    low: lower end of the accuracy's exact interval, `[b]`.
    high: upper end, `[b]`.
  """

  edges: Float[np.ndarray, " edges"]
  count: Int[np.ndarray, " b"]
  confidence: Float[np.ndarray, " b"]
  accuracy: Float[np.ndarray, " b"]
  low: Float[np.ndarray, " b"]
  high: Float[np.ndarray, " b"]


def reliability(
  confidence: Float[np.ndarray, " n"],
  correct: Bool[np.ndarray, " n"],
  num_bins: int = 15,
  *,
  interval: float = 0.95,
) -> Reliability:
  """Accuracy by confidence; for a smoothed classifier, confidence is the share of votes k / N.

  Args:
    confidence: of the predicted class, in [0, 1], `[n]`.
    correct: whether that class is the true one, `[n]`.
    num_bins: bins of equal width in [0, 1].
    interval: confidence of the interval around each accuracy.

  Returns:
    The bins.

  Raises:
    ValueError: no images; lengths differ; a confidence out of range; no bins.

  Reference: Guo et al., 2017, "On Calibration of Modern Neural Networks",
  https://arxiv.org/abs/1706.04599.

  >>> bins = reliability(np.array([0.6, 0.7, 1.0]), np.array([True, False, True]), num_bins=2)
  >>> bins.count.tolist(), bins.accuracy[1].round(3).item()
  ([0, 3], 0.667)
  """
  confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, bool)
  if confidence.shape != correct.shape or confidence.ndim != 1 or not confidence.size:
    raise ValueError(
      f"confidence {confidence.shape}, correct {correct.shape}: expected one per image in both"
    )
  if not np.all((confidence >= 0) & (confidence <= 1)):
    outside = confidence[~((confidence >= 0) & (confidence <= 1))][0]
    raise ValueError(f"confidence holds {outside}: expected shares in [0, 1]")
  check_count(num_bins=num_bins)
  edges = np.arange(num_bins + 1) / num_bins
  place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
  count, right = (np.bincount(place, weights, num_bins) for weights in (None, correct))
  total = np.bincount(place, confidence, num_bins)
  low, high = clopper_pearson(right.astype(int), count, confidence=interval)
  with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
    return Reliability(edges, count, total / count, right / count, low, high)


def expected_calibration_error(
  confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], num_bins: int = 15
) -> float:
  """ECE: the mean over images of |accuracy - confidence| of their bin.

  Guarantees:
    `calibrated_classifiers_err_little`: it goes to 0 where accuracy equals confidence.
    `a_constant_gap_is_found`: where they differ by a constant, it is that constant.

  Args:
    confidence: of the predicted class, in [0, 1], `[n]`.
    correct: whether that class is the true one, `[n]`.
    num_bins: bins of equal width in [0, 1]. Chance alone gives about sqrt(num_bins / n).

  Returns:
    The error, in [0, 1].

  Raises:
    ValueError: as in `reliability`.

  Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599.

  >>> expected_calibration_error(np.array([0.75, 0.75]), np.array([True, False]))
  0.25
  """
  bins = reliability(confidence, correct, num_bins)
  gap = np.abs(bins.accuracy - bins.confidence)
  return float(np.nansum(bins.count * gap) / bins.count.sum())
