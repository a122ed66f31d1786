"""Constructed sets for the generation job: chunks of images that a trained net's features made."""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_robust.attacks import inversion
from jax_robust.attacks.projections import l2_norm
from jax_robust.data.evaluation import as_floats
from jax_robust.data.sources import Source
from jax_robust.errors import check_count, check_positive
from jax_robust.generate import constructed
from jax_robust.models import representation as representations
from jax_robust.nets.devices import Devices
from jax_robust.nets.exits import predictions
from jax_robust.runs import devices, exits, identity, nets
from jax_robust.types import fold_ids

STEPS_AT_ONCE = 20
"""Steps of an inversion that are one program, unrolled on a CPU."""

Arrays = dict[str, np.ndarray]


class Chunks(NamedTuple):
  """What the generation job is to write.

  Attributes:
    num_chunks: how many chunks there are.
    chunks: `chunks(numbers)` yields those chunks in order: `image` and `label` `[m]`, and by name
      what else is known of each image.
    belongs_to: what they are made of, for manifest and pieces.
  """

  num_chunks: int
  chunks: Callable[[Collection[int]], Iterator[Arrays]]
  belongs_to: dict[str, Any]


def move_to_targets(
  kind: str,
  config: Any,
  *,
  net: str,
  eps: float,
  num_steps: int = 100,
  step_size: float = 0.1,
  num_shards: int | None = None,
  chunk_size: int = 500,
) -> Chunks:
  """The images that a config's run trains on, each moved in l2 until a net takes it for a target.

  Args:
    kind: 'd_rand', whose targets are drawn at random, or 'd_det', the class after the original's.
    config: says data set, seed, devices and precision.
    net: workdir of the run whose net it is.
    eps: radius in units of the image.
    num_steps, step_size: of PGD.
    num_shards: as that of `write_shards`.
    chunk_size: images of a piece and of a batch; part of what must not change when a job goes on.

  Raises:
    ConfigError: no run, or one of other classes or images.
    ValueError: an option out of range.
  """
  check_positive(eps=eps, step_size=step_size)
  check_count(num_steps=num_steps, chunk_size=chunk_size)
  subject = open_subject(config, net, chunk_size)
  options = {"eps": eps, "num_steps": num_steps, "step_size": step_size}

  def move(variables, x, labels, keys):
    (own,), num_classes = variables, subject.source.num_classes
    targets = constructed.next_targets(labels, num_classes)
    if kind == "d_rand":
      targets = constructed.random_targets(keys, num_classes)
    logits_fn = subject.logits_fn(*own)
    return constructed.move_to_targets(logits_fn, x, targets, keys, **options), targets

  return _moved(kind, config, subject, move, num_shards, options)


def move_disentangled(
  config: Any,
  *,
  net: str,
  others: Sequence[str],
  eps: float,
  num_steps: int = 10,
  step_size: float = 0.5,
  num_shards: int | None = None,
  chunk_size: int = 500,
) -> Chunks:
  """As 'd_det' of `move_to_targets`, but so that other nets see the classes that the images have.

  Args:
    config, net, eps, num_shards, chunk_size: as those of `move_to_targets`.
    others: workdirs of the runs of the other nets, at least one.
    num_steps, step_size: of PGD.

  Raises: as `move_to_targets`; ValueError: no other net.
  """
  check_positive(eps=eps, step_size=step_size)
  check_count(num_steps=num_steps, chunk_size=chunk_size)
  subject = open_subject(config, net, chunk_size, others)
  options = {"eps": eps, "num_steps": num_steps, "step_size": step_size}

  def move(variables, x, labels, keys):
    targets = constructed.next_targets(labels, subject.source.num_classes)
    logits_fn, *rest = (
      subject.logits_fn(*each, number=number) for number, each in enumerate(variables)
    )
    moved = constructed.move_disentangled(logits_fn, rest, x, targets, labels, keys, **options)
    return moved, targets

  return _moved(constructed.DISENTANGLED, config, subject, move, num_shards, options)


def _moved(kind, config, subject: "Subject", move, num_shards, options) -> Chunks:
  """The chunks of a set, `move(variables, x, labels, keys) -> (images, targets)` of its images."""

  def make(variables, rows):
    logits_fn, x = subject.logits_fn(*variables[0]), as_floats(rows["image"])
    moved, targets = move(variables, x, rows["label"], fold_ids(subject.key, rows["id"]))
    stored = constructed.to_nearest_bytes(moved)
    return {
      "image": stored, "label": targets,
      "reached_in_float": logits_fn(moved).argmax(-1) == targets,
      "reached": logits_fn(as_floats(stored)).argmax(-1) == targets,
      "distance": l2_norm(as_floats(stored) - x).reshape(-1),
    }  # fmt: skip

  make = subject.spread.compile_fn(make)

  def make_chunk(ids):
    image, label = subject.source.read(ids)
    return {"original_label": label, **subject.run(make, ids, image=image, label=label)}

  return _chunks(kind, config, subject, make_chunk, num_shards, options)


def invert(
  kind: str,
  config: Any,
  *,
  net: str,
  num_steps: int = 1000,
  step_size: float = 0.1,
  identity_backward: bool = False,
  head: str = representations.HEAD,
  num_shards: int | None = None,
  chunk_size: int = 500,
) -> Chunks:
  """Other images, moved until a net's representation is that of an image a config's run trains on.

  Args:
    kind: 'd_robust' or 'd_non_robust', which is said in the manifest; what makes it so is the net.
    config, net, num_shards, chunk_size: as those of `move_to_targets`.
    num_steps, step_size: as those of `attacks.invert`.
    identity_backward, head: as those of `models.representation.representation`.

  Raises: as `move_to_targets`.
  """
  check_positive(step_size=step_size)
  check_count(num_steps=num_steps, chunk_size=chunk_size)
  subject = open_subject(config, net, chunk_size)

  def features_of(variables):
    return subject.features_fn(*variables[0], head=head, identity_backward=identity_backward)

  def begin(variables, rows):
    return inversion.begin_inversion(
      features_of(variables), as_floats(rows["image"]), as_floats(rows["start"])
    )

  def advance(variables, state, num_steps):
    return inversion.continue_inversion(
      features_of(variables), state, num_steps=num_steps, step_size=step_size
    )

  def end(variables, state):
    features_fn, logits_fn = features_of(variables), subject.logits_fn(*variables[0])
    nearest, distance = inversion.end_inversion(features_fn, state)
    stored = constructed.to_nearest_bytes(nearest)
    found = inversion.feature_distance(features_fn(as_floats(stored)), state.goal)
    return {
      "image": stored, "feature_distance_in_float": distance, "feature_distance": found,
      "prediction": logits_fn(as_floats(stored)).argmax(-1),
    }  # fmt: skip

  counts = [min(STEPS_AT_ONCE, num_steps - done) for done in range(0, num_steps, STEPS_AT_ONCE)]
  compile_fn = subject.spread.compile_fn
  begin, end = compile_fn(begin), compile_fn(end)
  steps = {n: compile_fn(functools.partial(advance, num_steps=n)) for n in {*counts}}

  def make_chunk(ids):
    image, label = subject.source.read(ids)
    starts = np.asarray(
      constructed.start_rows(fold_ids(subject.key, ids), subject.source.num_examples)
    )
    start, start_label = subject.source.read(starts)

    def run(variables, rows):
      state = begin(variables, rows)
      for count in counts:
        state = steps[count](variables, state)
      return end(variables, state)

    found = subject.run(run, ids, image=image, start=start)
    reached = found.pop("prediction") == label
    return {
      "label": label, "original_label": label, "start_index": starts.astype(np.int32),
      "start_label": start_label, "reached": reached, **found,
    }  # fmt: skip

  options = {
    "num_steps": num_steps, "step_size": step_size, "identity_backward": identity_backward,
    "head": head,
  }  # fmt: skip
  return _chunks(kind, config, subject, make_chunk, num_shards, options)


class Subject(NamedTuple):
  """The nets of a constructed set, and the images, as they go to the devices.

  Attributes:
    source: the originals.
    nets: the config of each net's run, and the net; the first is the one that a set is made by.
    variables: their weights, on the devices.
    precision: of matrix products and convolutions.
    key: of the config's seed; an image's is folded with its number.
    spread: the devices.
    chunk_size: images of a chunk.
  """

  source: Source
  nets: Sequence[tuple[Any, nets.Opened]]
  variables: Any
  precision: str
  key: jax.Array
  spread: Devices
  chunk_size: int

  def logits_fn(self, params, model_state, number: int = 0):
    """`x -> logits` of the exit of a net that answers."""
    theirs, opened = self.nets[number]
    answer = nets.make_logits_fn(theirs, opened.net, params, model_state, precision=self.precision)
    return lambda x: predictions(answer(x))

  def features_fn(self, params, model_state, **options):
    """`x -> representation`."""
    features_fn = representations.make_features_fn(
      self.nets[0][1].net, {"params": params, **model_state}, **options
    )

    def in_precision(x):
      with nets.in_precision(self.precision):
        return features_fn(x)

    return in_precision

  def run(self, program, ids: np.ndarray, **rows: np.ndarray) -> Arrays:
    """Runs a program on rows, filled up to the size of all chunks, spread over the devices."""
    rows = {"id": np.asarray(ids, np.int32), **rows}
    return devices.run_filled(self.spread, program, self.variables, rows, size=self.chunk_size)


def open_subject(
  config: Any, reference: str, chunk_size: int, others: Sequence[str] = ()
) -> Subject:
  """The nets of runs, and the images that the config's run trains on."""
  source = exits.training_images(config)
  opened = [nets.open_run(reference, source, key="generate.net")]
  opened += [nets.open_run(other, source, key="generate.others") for other in others]
  spread = devices.local_devices(config.parallel)
  return Subject(
    source, opened, spread.share(tuple(each.variables for _, each in opened)),
    config.evaluation.precision, jax.random.key(config.seed), spread, chunk_size,
  )  # fmt: skip


def _chunks(kind, config, subject: Subject, make_chunk, num_shards, options) -> Chunks:
  """The chunks of a set, `make_chunk(ids)` each, and what they belong to."""
  source, size = subject.source, subject.chunk_size
  num_chunks = -(-source.num_examples // size)

  def chunks(numbers):
    for number in numbers:
      ids = np.arange(number * size, min((number + 1) * size, source.num_examples))
      yield {"index": ids.astype(np.int32), **make_chunk(ids)}

  return Chunks(num_chunks, chunks, belongs_to(kind, config, subject, num_shards, options))


def belongs_to(
  kind: str, config: Any, subject: Subject, num_shards: int | None, options: dict[str, Any]
) -> dict[str, Any]:
  """What the chunks of a set depend on, for manifest and pieces."""
  source = subject.source
  return {
    "generator": f"{kind} of {source.name}, by a {subject.nets[0][0].model.name}",
    "licence": "as the data set it was made of",
    "seed": config.seed,
    "num_shards": num_shards,
    "num_examples": source.num_examples,
    "num_classes": source.num_classes,
    "options": {**options, "chunk_size": subject.chunk_size},
    "precision": subject.precision,
    "weights_sha256": [opened.info["sha256"] for _, opened in subject.nets],
    **({"class_names": list(source.class_names)} if source.class_names else {}),
    **identity.sha256_of(source),
  }
