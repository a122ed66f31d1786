"""What the plans of studies share: a training in its own workdir, and what its net says of images.

Each training resumes by itself, and one that is finished is not repeated: a study goes on after a
kill because all of its trainings do.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import jobs
from jax_robust.config import UNITS
from jax_robust.data.sources import Source
from jax_robust.evaluate.intervals import Interval, binomial_interval, student_interval
from jax_robust.nets.exits import exits_of
from jax_robust.runs import exits, nets
from jax_robust.studies import HELD, NOT_HELD, UNDECIDED

STUDENT = 1000
"""What is added to the seed of a teacher for that of its students: other initial weights."""


class Preempted(Exception):
  """A training was told to stop before its end; the same command goes on."""


class Answers(NamedTuple):
  """What a net says of images.

  Attributes:
    logits: `[n, k]`.
    true: labels of the images, `[n]`.
    class_names: of the net's classes, () if they have no names.
  """

  logits: np.ndarray
  true: np.ndarray
  class_names: tuple[str, ...]

  @property
  def labels(self) -> np.ndarray:
    """The likeliest class of each image, `[n]`."""
    return self.logits.argmax(1)

  @property
  def probabilities(self) -> np.ndarray:
    """float32 `[n, k]`."""
    return np.asarray(jax.nn.softmax(jnp.asarray(self.logits, jnp.float32)))

  @property
  def num_classes(self) -> int:
    return self.logits.shape[1]

  @property
  def accuracy(self) -> float:
    return float(np.mean(self.labels == self.true))

  def agreement(self, other: "Answers") -> float:
    """The share of images of which two nets say the same."""
    return float(np.mean(self.labels == other.labels))


def changed(config: Any, *, data: Mapping[str, Any] | None = None, **values: Any) -> Any:
  """The config of one training of a study.

  Args:
    config: of the study.
    data: keys of the block `data` that differ.
    **values: keys of the config that differ, such as `seed`. One that ends in a unit of time, such
      as `total_epochs`, replaces the same time in another unit.
  """
  run = config.copy_and_resolve_references()
  with run.unlocked(), run.ignore_type():
    run.job = "train"
    run.data.update(data or {})
    if "study" in run:
      del run["study"]
    for key, value in values.items():
      stem, _, unit = key.rpartition("_")
      if unit in UNITS:
        for other in (f"{stem}_{other}" for other in UNITS if f"{stem}_{other}" in run):
          del run[other]
      run[key] = value
  return run


def train(config: Any, place: pathlib.Path) -> None:
  """Trains as far as the workdir `place` says.

  Raises:
    Preempted: it was told to stop.
  """
  if jobs.run(config, place)["preempted"]:
    raise Preempted


def predict(config: Any, place: pathlib.Path, source: Source | None = None) -> Answers:
  """What the net of a run says of the images of a source, or of its test images.

  Args:
    config: of the run; of a net with several exits, that of `evaluation.exit` answers.
    place: the workdir of the run.
    source: images of the net's shape; default the test images.

  Raises:
    ValueError: images of another shape.
  """
  subject = nets.open_model(config, place)
  if source is not None and source.image_shape != subject.source.image_shape:
    raise ValueError(
      f"{source.name} has image_shape {source.image_shape}, the net in {place} was trained on "
      f"{subject.source.image_shape}: bring both to one size and number of channels first"
    )
  precision = config.evaluation.precision

  @jax.jit
  def compiled(variables, x):
    logits_fn = nets.make_logits_fn(config, subject.net, *variables, precision=precision)
    return exits_of(logits_fn(x))

  scored = exits.score(
    lambda x: compiled(subject.variables, x),
    source or subject.source,
    batch_size=config.evaluation.batch_size,
  )
  return Answers(scored.outputs[0], scored.labels, tuple(subject.source.class_names))


def over_seeds(shares: Sequence[float], num_images: int) -> Interval:
  """Mean and 95 % interval of shares of images, one a seed.

  Of several seeds it is Student's interval, of the recipe's mean. Of a single one it is the exact
  interval of the images alone, which does not know how much seeds differ.

  Args:
    shares: in [0, 1], `[seeds]`.
    num_images: that each share is of.
  """
  if len(shares) == 1:
    return binomial_interval(round(shares[0] * num_images), num_images)
  return student_interval(np.asarray(shares))


def compare(ours: Interval, *controls: Interval) -> str:
  """The answer to "ours is larger than every control", by 95 % intervals.

  Held where our interval lies above all of theirs, not held where our mean is not larger than each
  of theirs, and undecided in between.
  """
  if all(ours.low > each.high for each in controls):
    return HELD
  if any(ours.value <= each.value for each in controls):
    return NOT_HELD
  return UNDECIDED
