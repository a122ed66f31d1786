"""Labels by a classifier for the generation job: what it says of each image, chunk by chunk."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import config as config_lib
from jax_robust import models
from jax_robust.data import classes, convert, files
from jax_robust.data.evaluation import as_floats
from jax_robust.data.sources import Source
from jax_robust.errors import (
  ConfigError,
  DataFileError,
  LostImagesError,
  check_count,
  check_flag,
  check_name,
  check_positive,
  check_share,
)
from jax_robust.image_sets import duplicates, selection
from jax_robust.jobs import constructed
from jax_robust.models import representation
from jax_robust.runs import build, devices, identity, nets, weights, workdir

DUPLICATES = ("", "exact", "near")
"""What counts as a duplicate: nothing, equal pixels, or thumbnails within a distance."""

REFERENCES = ("train", "test")
"""The splits of a config's data set that duplicates are looked for in."""

NO_LABEL = -1
"""The given label of an image that has none."""

LabelFn = Callable[[np.ndarray, np.ndarray], constructed.Arrays]
"""`(ids [n], images uint8 [n, h, w, c]) -> {"label", "confidence"}`, and `feature` if wanted."""


def label_images(
  config: Any,
  *,
  path: str,
  classifier: str,
  given_labels: bool = True,
  without_duplicates: str = "",
  duplicate_distance: float = duplicates.DISTANCE,
  against: Sequence[str] = REFERENCES,
  top_share: float = 1.0,
  clusters: int = 0,
  cluster_share: float = 0.5,
  cluster_rule: str = "boundary",
  boundary_share: float = 0.5,
  head: str = representation.HEAD,
  balance: int | None = None,
  num_samples: int | None = None,
  num_shards: int | None = None,
  chunk_size: int = 500,
) -> constructed.Chunks:
  """What a classifier says of each image of a set, for `labelled.write_results` to make shards of.

  Filters apply in this order, each to what the one before has left: duplicates, top share,
  clusters, balance, number of samples.

  Guarantees:
    `killed_job_labels_the_same`: a label depends on weights and image alone, and a confidence on
      the size of the chunk by rounding.

  Args:
    config: says seed, devices, precision, size of images that are decoded, and the data set whose
      images duplicates are looked for in.
    path: the set: shards, an npz, a pack of JPEGs, or a folder.
    classifier: workdir of the run that labels, of any training; its classes are those of the
      shards.
    given_labels: whether the set has labels, which are then compared with those of the classifier;
      false for a folder of images alone, below it at any depth.
    without_duplicates: 'exact' leaves out images with the pixels of another, 'near' also those
      whose thumbnail is within a distance of another's; '' none.
    duplicate_distance: root mean square difference of two thumbnails of 8 pixels a side, of pixels
      in [0, 1].
    against: splits of the data set, 'train' and 'test', of whose images duplicates are left out
      too.
    top_share: of the images of each label, those of highest confidence; 1 keeps all.
    clusters: of the classifier's features, by which images are chosen; 0 for no such choice.
    cluster_share: of the images, that is kept by their clusters.
    cluster_rule: 'boundary' keeps those nearest to the boundary between two clusters, beside
      others, 'spread' as many of every cluster; see `image_sets.selection.by_clusters`.
    boundary_share: of those kept by 'boundary', how many are nearest to it; the others are drawn.
    head: name of the layer whose input are the features.
    balance: images of every label; 0 for as many as the rarest has, none for what there is.
    num_samples: images, drawn at random; none for all that are left.
    num_shards: as that of `write_shards`.
    chunk_size: images of a piece and of a batch; part of what must not change when a job goes on.

  Raises:
    ConfigError: no run, one of images of another shape, or of a net that is no classifier; a set
      whose labels are none of the classifier's classes.
    DataFileError: there is no such set, or it is damaged.
    TypeError, ValueError: an option out of range.
  """
  chosen = {
    "without_duplicates": without_duplicates, "duplicate_distance": duplicate_distance,
    "against": list(against), "top_share": top_share, "clusters": clusters,
    "cluster_share": cluster_share, "cluster_rule": cluster_rule, "boundary_share": boundary_share,
    "head": head, "balance": balance, "num_samples": num_samples,
  }  # fmt: skip
  check_flag(given_labels=given_labels)
  check_count(chunk_size=chunk_size)
  _check_selection(chosen)
  source = open_set(config, path, classes_of_run(classifier), given_labels=given_labels)
  if without_duplicates:
    for split in against:
      open_reference(config, split, source)
  label, info = open_labeller(config, classifier, source, chunk_size, head=head if clusters else "")

  def chunks(numbers) -> Iterator[constructed.Arrays]:
    for number in numbers:
      ids = np.arange(number * chunk_size, min((number + 1) * chunk_size, source.num_examples))
      images, given = source.read(ids)
      found = {**label(ids, images), "digest": duplicates.pixel_digests(images)}
      if without_duplicates == "near":
        found["thumbnail"] = duplicates.thumbnails(images)
      given = given if given_labels else np.full_like(given, NO_LABEL)
      yield {"index": ids.astype(np.int32), "given_label": given, **found}

  made = getattr(source, "manifest", None)
  belongs_to = {
    "generator": f"{made.generator if made else pathlib.PurePath(path).name}, labelled by a "
    f"{info['model']}",
    "licence": made.licence if made else "as the set that was labelled",
    "seed": config.seed,
    "num_shards": num_shards,
    "num_examples": source.num_examples,
    "num_classes": source.num_classes,
    "options": {"given_labels": given_labels, "chunk_size": chunk_size},
    "selection": chosen,
    "precision": config.evaluation.precision,
    "weights_sha256": [info["sha256"]],
    **({"class_names": list(source.class_names)} if source.class_names else {}),
    **identity.sha256_of(source),
  }
  return constructed.Chunks(-(-source.num_examples // chunk_size), chunks, belongs_to)


def _check_selection(chosen: dict[str, Any]) -> None:
  """Raises for an option of the selection that is out of range."""
  check_name("without_duplicates", chosen["without_duplicates"], DUPLICATES)
  check_positive(duplicate_distance=chosen["duplicate_distance"])
  for split in chosen["against"]:
    check_name("against", split, REFERENCES)
  shares = {name: chosen[name] for name in ("top_share", "cluster_share", "boundary_share")}
  check_share(**shares)
  check_positive(top_share=chosen["top_share"], cluster_share=chosen["cluster_share"])
  if chosen["clusters"]:
    check_count(2, clusters=chosen["clusters"])
  check_name("cluster_rule", chosen["cluster_rule"], selection.RULES)
  if chosen["balance"] is not None:
    check_count(0, balance=chosen["balance"])
  if chosen["num_samples"] is not None:
    check_count(num_samples=chosen["num_samples"])


def classes_of_run(reference: str) -> classes.Classes:
  """The classes that the net of a run tells apart.

  Raises:
    WorkdirError: it is no workdir.
    ConfigError: it has no weights, and does not note its classes.
  """
  folder = pathlib.Path(reference)
  theirs = config_lib.from_data(workdir.read_config(folder))
  if (noted := weights.noted_classes(folder)) is not None:
    return noted
  theirs.init_from = ""
  place, arrays, _ = weights.find(theirs, folder)
  return classes.Classes(weights.num_classes(place, arrays), ())


def open_set(config: Any, path: str, wanted: classes.Classes, *, given_labels: bool) -> Source:
  """The images at a path, of the classes of a classifier; without labels, all of label 0 or what is
  there, which plays no part.

  Raises:
    DataFileError: there is no such set, or it is damaged.
    ConfigError: it has labels of other classes.
  """
  place, image_size = pathlib.Path(path), config.data.image_size or None
  ignore = "--config.generate.given_labels=False leaves its labels out of account"
  if not given_labels:
    source = _unlabelled(place, image_size)
    changes = {"num_classes": wanted.num, "class_names": wanted.names}
    return dataclasses.replace(source, **changes)
  try:
    return classes.agree(convert.open_source(path, image_size=image_size), wanted)
  except DataFileError as error:
    if place.is_dir() and not convert.is_shards(place):
      raise DataFileError(error.path, error.reason, f"{error.remedy} {ignore}.") from error
    raise
  except ValueError as error:
    raise ConfigError(
      f"config.generate.path={path!r} has other classes than the classifier tells apart: {error}; "
      + ignore
    ) from error


def _unlabelled(place: pathlib.Path, image_size: int | None) -> Source:
  """The images at a path, whatever their labels."""
  if place.is_dir() and not convert.is_shards(place):
    return files.unlabelled_folder(place, image_size=image_size)[1]
  return convert.open_source(place, image_size=image_size)


def open_reference(config: Any, split: str, source: Source) -> Source:
  """The split 'train' or 'test' of the config's data set, for duplicates of a set.

  Raises:
    ConfigError: its images are of another shape.
  """
  key = "test_name" if split == "test" and config.data.test_name else "name"
  reference = build.load_split(config, config.data[f"{split}_split"], key=key)
  if reference.image_shape != source.image_shape:
    raise ConfigError(
      f"config.generate.against={split!r}: {reference.name} has image_shape "
      f"{reference.image_shape}, {source.name} has {source.image_shape}: name a data set of images "
      "like these by config.data.name, or look for duplicates in the set alone, by an empty list"
    )
  return reference


def open_labeller(
  config: Any, reference: str, source: Source, chunk_size: int, *, head: str = ""
) -> tuple[LabelFn, dict[str, Any]]:
  """What a classifier says of images, and its `model` and `sha256`.

  Args:
    config: says devices and precision.
    reference: workdir of its run.
    source: images like those that it is to label, with their classes.
    chunk_size: images that it is given at once.
    head: the layer whose input is returned too; '' for no such features.

  Raises:
    ConfigError: no run, one of images of another shape or of other classes, or of a net that is no
      classifier.
  """
  theirs, opened = nets.open_run(reference, source, key="generate.classifier")
  if not models.is_classifier(opened.net):
    raise ConfigError(
      f"config.generate.classifier={reference!r} is the run of a {type(opened.net).__name__}, "
      "which gives no labels: name the run of a classifier, such as configs/cifar10_adversarial.py "
      "trains one with attack=none"
    )
  spread = devices.local_devices(config.parallel)
  subject = constructed.Subject(
    source, [(theirs, opened)], spread.share((opened.variables,)), config.evaluation.precision,
    jax.random.key(config.seed), spread, chunk_size,
  )  # fmt: skip

  def look(variables, rows):
    x = as_floats(rows["image"])
    logits = subject.logits_fn(*variables[0])(x).astype(jnp.float32)
    found = {
      "label": logits.argmax(-1).astype(jnp.int32),
      "confidence": jax.nn.softmax(logits).max(-1),
      "is_finite": jnp.isfinite(logits).all(-1),
    }
    if head:
      features = subject.features_fn(*variables[0], head=head)(x)
      found["feature"] = features.reshape(len(x), -1).astype(jnp.float32)
    return found

  program = spread.compile_fn(look)

  def label(ids, images):
    found = subject.run(program, ids, image=images)
    if not (is_finite := found.pop("is_finite")).all():
      raise LostImagesError.of(np.asarray(ids)[~is_finite])
    return found

  return label, {"model": theirs.model.name, "sha256": opened.info["sha256"]}
