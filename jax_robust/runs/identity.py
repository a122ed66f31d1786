"""What pieces of work belong to: identities, how two of them differ, and checksums of data."""

import hashlib
import json
import operator
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_robust.errors import WorkdirError

NOTED_LATER = ("num_classes",)
"""Keys that follow from the others and that earlier versions did not note: they may be lacking."""


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
  """An identity as it comes back from a JSON file."""
  return json.loads(json.dumps(identity))


def digest(identity: Mapping[str, Any]) -> str:
  """The sha256 of an identity, whatever the order of its keys."""
  return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differing(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
  """What two identities differ in, a line each; one may lack what is `NOTED_LATER`."""
  return [
    f"{key}: {stored.get(key)!r} there, {wanted.get(key)!r} here"
    for key in sorted(stored.keys() | wanted.keys())
    if stored.get(key) != wanted.get(key)
    and not (key in NOTED_LATER and None in (stored.get(key), wanted.get(key)))
  ]


def noted_ids(ids: Sequence[int]) -> dict[str, list[int]]:
  """How a header notes the ids of a work: a range by its limits, others one by one.

  >>> noted_ids(range(0, 10, 2)), noted_ids((3, 7, 8))
  ({'ids': [0, 10, 2]}, {'listed_ids': [3, 7, 8]})
  """
  if isinstance(ids, range):
    return {"ids": [ids.start, ids.stop, ids.step]}
  return {"listed_ids": list(map(int, ids))}


def ids_of(header: Any, identity: Any, path: pathlib.Path) -> Sequence[int]:
  """The ids of the whole work: as noted, or, before ids were noted, as the identity implies.

  Raises:
    WorkdirError: they can't be known.
  """
  try:
    if "listed_ids" in header:
      return tuple(map(operator.index, header["listed_ids"]))
    if "ids" in header:
      return range(*header["ids"])
    if "chunk_size" in identity:  # AutoAttack: all images
      return range(identity["num_examples"])
    step = identity["skip"]  # certification: every so many-th image
    first = -(-identity["start"] // step) * step
    return range(first, first + step * identity["num_images"], step)
  except (TypeError, KeyError, ValueError, OverflowError) as error:
    raise WorkdirError(
      f"{path} does not say what it belongs to ({error!r}): move it away, or restore it"
    ) from error


def sha256_of(source: Any, chosen: np.ndarray | None = None) -> dict[str, str]:
  """Checksums of the images and labels of a source, or of the chosen ones."""
  images, labels = hashlib.sha256(), hashlib.sha256()
  chosen = np.arange(source.num_examples) if chosen is None else chosen
  for start in range(0, len(chosen), 1024):
    some = source.read(chosen[start : start + 1024])
    images.update(np.ascontiguousarray(some[0]).tobytes())
    labels.update(np.ascontiguousarray(some[1], np.int64).tobytes())
  return {"images_sha256": images.hexdigest(), "labels_sha256": labels.hexdigest()}
