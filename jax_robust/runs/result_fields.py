"""What fields of results are made of: their types, those that every result has, and parts.

A type is `int`, `number`, `text`, `flag`, `interval` (two numbers, low and high), `object`
(anything by name), `any`, or the name of a part; or made of these: `list of T`, `map of T` (by
name), `T or null`.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Field(NamedTuple):
  """What stands under one name.

  Attributes:
    type: as the head of this module describes it.
    meaning: what it is.
    unit: of the number or numbers; '' where they have none.
    optional: whether only some results have it.
  """

  type: str
  meaning: str
  unit: str = ""
  optional: bool = False


class Kind(NamedTuple):
  """A kind of result, or a part that several have.

  Attributes:
    meaning: what it is, in one line.
    fields: by name. `*` in a name stands for what a config may choose; names without one go first,
      then those with more letters.
    version: raised where a reader of the older files would misread the newer ones.
  """

  meaning: str
  fields: Mapping[str, Field]
  version: int = 1


SHARE = "share of images"

COMMON = {
  "kind": Field("text", "which of these tables the file keeps to"),
  "version": Field("int", "of the kind; files of before there were versions have none"),
  "command": Field("text", "as it was typed; empty where a program called the job", optional=True),
  "versions": Field("versions", "what it ran with"),
  "warnings": Field("list of text", "what was warned of, if anything", optional=True),
}
"""What every result has, added where it is written."""

IMAGES = {
  "split": Field("text", "the split that the images are of, in the notation of TFDS"),
  "images_sha256": Field("text", "digest of the images"),
  "labels_sha256": Field("text", "digest of their labels"),
}
CLASS_NAMES = Field("list of text", "of the classes, where they have some", optional=True)
PRECISION = Field("text", "of matrix products")
EXIT = Field("any", "which exit answers, where it is not the last", optional=True)
SEED = Field("int", "of the randomness")
WEIGHTS = Field("text", "digest of the weights")
DENOISER = Field("text", "digest of the weights of the net that denoises, if one does", "", True)
EPS = Field("number", "radius of the attack", "of the norm, pixels from 0 to 1")
COMPLETE = Field("flag", "whether all images that were asked for are in it")
NUM_LOST = "adversarial points without a finite score, which count as no attack"
ATTACKED = Field("object", "the attack's name and options, as the config has them", optional=True)

LABELLED = {
  "confidence": Field("number", "mean over images of the probability of their label"),
  "confidence_interval": Field("interval", "95 % interval of it, over images"),
  "label_counts": Field("list of int", "images by the classifier's label", "images"),
  "num_given": Field("int", "images that had a label", "images", True),
  "agreement": Field("number", "labelled by the classifier as they were", SHARE, True),
  "agreement_interval": Field("interval", "95 % interval of it, over images", SHARE, True),
  "confusion": Field(
    "list of list of int", "by the label they had, then the classifier's", "images", True
  ),
}
"""How confident a classifier is of images, and how often it agrees with the labels they had."""

PARTS = {
  "labelled": Kind(
    "Labels of some images by a classifier.",
    {"num_examples": Field("int", "images", "images"), **LABELLED},
  ),
  "filter": Kind(
    "What a filter did.",
    {
      "filter": Field("text", "the option that asks for it"),
      "before": Field("int", "images that it was given", "images"),
      "removed": Field("int", "images that it left out", "images"),
      "duplicates": Field("map of int", "duplicates by where the other is", "images", True),
      "least_confidence": Field("number", "of the images that it kept", optional=True),
      "sizes": Field("list of int", "images kept of each cluster", "images", True),
      "count": Field("int", "images that every class was to have", "images", True),
    },
  ),
  "versions": Kind(
    "What a result depends on besides the config.",
    {
      "packages": Field("map of text", "versions by name"),
      "python": Field("text", "version of Python"),
      "platform": Field("text", "operating system and machine"),
      "backend": Field("text", "of JAX"),
      "devices": Field("list of text", "kind of each device"),
      "hardware": Field("text", "processor with its cores, or accelerators", optional=True),
      "processes": Field("int", "that worked together"),
      "date": Field("text", "when it was written, UTC"),
    },
  ),
  "point": Kind(
    "A point of a curve over radii.",
    {
      "eps": EPS,
      "robust": Field("number", "accuracy under attack; at 0 without one", SHARE),
      "interval": Field("interval", "95 % interval of it, over images", SHARE),
    },
  ),
  "certified": Kind(
    "Certified accuracy at a radius.",
    {
      "radius": Field("number", "l2 radius", "pixels from 0 to 1"),
      "value": Field("number", "certified at this radius and right", SHARE),
      "interval": Field("interval", "95 % band, over images", SHARE),
    },
  ),
  "average": Kind(
    "The average certified radius (ACR).",
    {
      "value": Field("number", "mean of radius times correct", "l2, pixels from 0 to 1"),
      "standard_error": Field("number", "of the mean", "l2, pixels from 0 to 1"),
      "low": Field("number", "of the 95 % interval"),
      "high": Field("number", "of the 95 % interval"),
      "num_images": Field("int", "that it is over", optional=True),
    },
  ),
  "weights": Kind(
    "Where weights are from.",
    {
      "step": Field("int or null", "of the training", "batches"),
      "checkpoint": Field("text", "'best', 'latest', 'accepted', or init_from"),
      "sha256": WEIGHTS,
      "*": Field("any", "what else the checkpoint says"),
    },
  ),
  "share": Kind(
    "A share of images.",
    {
      "value": Field("number", "the share", SHARE),
      "interval": Field("interval", "95 % interval of it", SHARE),
    },
  ),
  "candidate": Kind(
    "A set of images beside the real ones.",
    {
      "origin": Field("text", "path, or how it was made: 'heldout', 'noise', 'augment:NAME'"),
      "images_sha256": Field("text", "digest of the images"),
      "labels_sha256": Field("text", "digest of their labels"),
      "train": Field("share", "nearest to a training image"),
      "test": Field("share", "nearest to a test image"),
      "self": Field("share", "nearest to another image of the set"),
      "distance_to_reference": Field("number", "total variation of the shares from its", "0 to 1"),
      "same_row_of_train": Field("number", "nearest to the training image it was made of", SHARE),
      "median_distance": Field("number", "to the nearest neighbour", "l2 of features"),
      "fid": Field("number", "Fréchet distance"),
      "kid": Field("number", "squared maximum mean discrepancy, mean over subsets"),
      "kid_std": Field("number", "its standard deviation over subsets"),
      "precision": Field("number", "inside a real image's ball", SHARE),
      "recall": Field("number", "real images inside a ball of the set", SHARE),
      "density": Field("number", "real balls around an image, in units of k"),
      "coverage": Field("number", "real images with one of the set in their ball", SHARE),
    },
  ),
  "mean": Kind(
    "A mean over seeds, or a number of one cell.",
    {
      "value": Field("number", "the mean"),
      "low": Field("number", "of the 95 % interval: Student's over seeds, of one over its images"),
      "high": Field("number", "of the 95 % interval"),
      "sd": Field("number or null", "standard deviation over seeds; null of one"),
      "values": Field("list of number", "one a seed"),
    },
  ),
  "row": Kind(
    "A row of a sweep: cells that differ in what means are taken over.",
    {
      "changes": Field("map of text", "what the row's cells have in common, as it was typed"),
      "cells": Field("int", "how many are finished", "cells"),
      "failed": Field("map of text", "errors by cell"),
      "is_baseline": Field("flag", "whether the others are compared with it", optional=True),
      "means": Field("map of mean", "by what was measured"),
      "gains": Field("map of gain", "over the baseline, seed by seed", optional=True),
    },
  ),
  "gain": Kind(
    "A mean of differences, of cells to the baseline with the same seed.",
    {
      "value": Field("number", "the mean"),
      "low": Field(
        "number or null", "of the 95 % interval, by the scatter of all rows; null of one pair"
      ),
      "high": Field("number or null", "of it"),
      "sd": Field("number or null", "standard deviation; null of one pair"),
      "values": Field("list of number", "by pair"),
    },
  ),
  "best": Kind(
    "A row of a sweep that gains most.",
    {
      "changes": Field("map of text", "of the row, as it was typed"),
      "gain": Field("gain", "what it gains"),
    },
  ),
  "evaluation": Kind(
    "AutoAttack at one radius.",
    {
      "version": Field("any", "'standard', 'plus', 'rand', 'aa+mt', or a list of attacks"),
      "norm": Field("text", "'linf', 'l2' or 'l1'"),
      "eps": EPS,
      "seed": SEED,
      "chunk_size": Field("int", "images of a piece", "images"),
      "data": Field("text", "name of the data set"),
      "weights_sha256": WEIGHTS,
      "precision": PRECISION,
      "exit": EXIT,
      **IMAGES,
      "num_examples": Field("int", "images that were evaluated", "images"),
      "complete": COMPLETE,
      "clean": Field("number", "accuracy without an attack", SHARE),
      "clean_interval": Field("interval", "95 % interval of it", SHARE),
      "robust": Field("number", "accuracy under all attacks", SHARE),
      "robust_interval": Field("interval", "95 % interval of it", SHARE),
      "robust_after": Field("map of number", "accuracy after each attack, in their order", SHARE),
      "max_distance": Field("number", "largest distance of an adversarial image", "of the norm"),
      "forward_per_image": Field("number", "mean over images", "forward passes"),
      "backward_per_image": Field("number", "mean over images", "backward passes"),
      "rejected": Field("int", "points that an attack claimed and that were not confirmed"),
      "warnings": Field("list of text", "why the number may be too high"),
      "flags": Field("map of list of int", "of each image: id, label, predictions, what held"),
    },
  ),
}
"""What types of fields may name."""
