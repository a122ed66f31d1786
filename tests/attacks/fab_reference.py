"""FAB after its paper, in float64 NumPy, one image at a time: what the batched one must equal."""

import numpy as np
from scipy import optimize

NORMS = {
  "linf": lambda d: np.abs(d).max(),
  "l2": lambda d: np.sqrt((d**2).sum()),
  "l1": lambda d: np.abs(d).sum(),
}
DUAL_NORMS = {"linf": NORMS["l1"], "l2": NORMS["l2"], "l1": NORMS["linf"]}


def move(z, w, excess, norm):
  """The shortest d with <w, d> = -excess and z + d in the box; the nearest corner if none."""
  direction = -np.sign(w) * np.sign(excess)
  room = np.where(direction > 0, 1 - z, np.where(direction < 0, z, 0.0))
  size, need = np.abs(w), abs(excess)
  if need >= (size * room).sum():
    return direction * room
  if norm == "l1":
    d, left = np.zeros_like(z), need
    for i in np.argsort(-size, kind="stable"):
      d[i] = min(room[i], left / size[i]) if size[i] > 0 else 0.0
      left = max(left - d[i] * size[i], 0.0)
    return direction * d
  speed = np.ones_like(z) if norm == "linf" else size
  gap = lambda a: (size * np.minimum(a * speed, room)).sum() - need  # noqa: E731
  highest = (room[size > 0] / speed[size > 0]).max()
  a = optimize.brentq(gap, 0.0, highest, xtol=1e-15, rtol=1e-14)
  return direction * np.minimum(a * speed, room)


def fab_points(logits_and_jacobian, x, label, *, norm, num_steps, goal=None):
  """The loop of the paper: the start of every iteration, and the best adversarial iterate.

  `logits_and_jacobian(z)` gives `[k]` and `[k, d]`.
  """
  point, best, points = x, None, []
  for _ in range(num_steps):
    logits, jacobian = logits_and_jacobian(point)
    others = [goal] if goal is not None else [s for s in range(len(logits)) if s != label]
    distance_to = lambda s: (  # noqa: E731
      abs(logits[s] - logits[label]) / DUAL_NORMS[norm](jacobian[s] - jacobian[label])  # noqa: B023
    )
    closest = min(others, key=distance_to)
    w = jacobian[closest] - jacobian[label]
    b = -(logits[closest] - logits[label]) + w @ point
    d1, d2 = move(point, w, w @ point - b, norm), move(x, w, w @ x - b, norm)
    a1, a2 = max(NORMS[norm](d1), 1e-8), max(NORMS[norm](d2), 1e-8)
    a = min(a1 / (a1 + a2), 0.1)
    point = np.clip((point + 1.05 * d1) * (1 - a) + (x + 1.05 * d2) * a, 0, 1)
    if np.argmax(logits_and_jacobian(point)[0]) != label:
      if best is None or NORMS[norm](point - x) < NORMS[norm](best - x):
        best = point
      point = x + 0.9 * (point - x)
    points.append(point)
  return np.array(points), best
