"""An evaluation in pieces: chunks of images, each written down whole, and what they say together.

A folder holds `identity.json`, what the flags depend on, and one npz file a chunk. A kill loses the
chunk that was being computed, and nothing else; chunks of another evaluation are never mixed in.
"""

import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_robust.attacks import AutoAttackResult
from jax_robust.errors import WorkdirError
from jax_robust.evaluate import attack_plots, intervals
from jax_robust.runs import workdir

IDENTITY = "identity.json"

PICTURED = 6
"""How many images a picture shows."""

_PER_IMAGE = ("clean", "robust", "pred", "pred_adv", "num_forward", "num_backward")


def sha256_of(source, chosen: np.ndarray | None = None) -> dict[str, str]:
  """Checksums of the images and labels of a source, or some of it, read a piece at a time."""
  images, labels = hashlib.sha256(), hashlib.sha256()
  chosen = np.arange(source.num_examples) if chosen is None else chosen
  for start in range(0, len(chosen), 1024):
    some = source.read(chosen[start : start + 1024])
    images.update(np.ascontiguousarray(some[0]).tobytes())
    labels.update(np.ascontiguousarray(some[1], np.int64).tobytes())
  return {"images_sha256": images.hexdigest(), "labels_sha256": labels.hexdigest()}


def differing(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
  """What two identities differ in, a line each."""
  return [
    f"{key}: {stored.get(key)!r} there, {wanted.get(key)!r} here"
    for key in sorted(stored.keys() | wanted.keys())
    if stored.get(key) != wanted.get(key)
  ]


def claim(folder: pathlib.Path, identity: Mapping[str, Any]) -> None:
  """Opens a folder for the chunks of an evaluation.

  Raises:
    WorkdirError: it holds those of another one; the message names what differs.
  """
  wanted = json.loads(json.dumps(identity))
  if (folder / IDENTITY).exists():
    lines = differing(read_identity(folder), wanted)
    if lines:
      raise WorkdirError(
        f"{folder} holds another evaluation:\n  "
        + "\n  ".join(lines)
        + "\nchoose another --workdir, or move that folder away"
      )
  else:
    workdir.write_json(folder / IDENTITY, wanted)


def read_identity(folder: pathlib.Path) -> dict[str, Any]:
  """What the chunks of a folder are of.

  Raises:
    WorkdirError: there is none, or it is damaged.
  """
  try:
    identity = json.loads((folder / IDENTITY).read_text())
    return {"num_examples": identity["num_examples"], **identity}
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise WorkdirError(
      f"{folder} is no evaluation in chunks ({error!r}): move it away, or restore {IDENTITY}"
    ) from error


def starts_of(identity: Mapping[str, Any]) -> range:
  """The first image of every chunk of the whole evaluation."""
  return range(0, identity["num_examples"], identity["chunk_size"])


def path_of(folder: pathlib.Path, start: int) -> pathlib.Path:
  """The file of the chunk that begins with image `start`."""
  return folder / f"chunk_{start:07d}.npz"


def write(
  path: pathlib.Path,
  result: AutoAttackResult,
  columns: Mapping[str, np.ndarray],
  hardest: Mapping[str, np.ndarray],
) -> None:
  """Writes one chunk in one piece.

  Args:
    path: of the file.
    result: the flags of its images.
    columns: what else there is, one row an image: `id`, `label`, `distance`, ...
    hardest: rows of the images for the picture, by the fields of `attack_plots.Example`, and
      `difficulty`.
  """
  content = io.BytesIO()
  np.savez_compressed(
    content,
    **{name: getattr(result, name) for name in _PER_IMAGE},
    **{f"after/{name}": flags for name, flags in result.robust_after.items()},
    **columns,
    **{f"hardest/{name}": rows for name, rows in hardest.items()},
    rejected=np.asarray(sum(result.rejected.values())),
    warnings=np.asarray(result.warnings, dtype=np.str_),
  )
  workdir.write_file(path, content.getvalue())


def read(folder: pathlib.Path) -> Iterator[dict[str, np.ndarray]]:
  """The chunks of a folder, in the order of their images, without the examples of all images.

  Raises:
    WorkdirError: a file is damaged.
  """
  for path in sorted(folder.glob("chunk_*.npz")):
    try:
      with np.load(path, allow_pickle=False) as file:
        yield {name: file[name] for name in file.files if name != "x_adv"}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
      raise WorkdirError(f"{path} is damaged ({error}): delete it and run the job again") from error


def difficulty(result: AutoAttackResult) -> np.ndarray:
  """How much it took to break each image: by which attack, then in how many passes; else 0."""
  stage = np.sum(list(result.robust_after.values()), axis=0)
  passes = result.num_forward + result.num_backward
  return np.where(result.clean & ~result.robust, stage + passes / (passes.max() + 1.0) + 1.0, 0.0)


def hardest(chunks: Sequence[Mapping[str, np.ndarray]]) -> list[attack_plots.Example]:
  """Of all images that fell those which resisted longest."""
  names = [f"hardest/{name}" for name in ("difficulty", *attack_plots.Example._fields)]
  ranks, *fields = (np.concatenate([chunk[name] for chunk in chunks]) for name in names)
  best = np.argsort(-ranks, kind="stable")[:PICTURED]
  return [attack_plots.Example(*(field[i] for field in fields)) for i in best]


def summarise(
  chunks: Sequence[Mapping[str, np.ndarray]], identity: Mapping[str, Any]
) -> dict[str, Any]:
  """An evaluation in numbers, and its flags, of the chunks that are there."""
  after = [name for name in chunks[0] if name.startswith("after/")]
  names = ("id", "label", "distance", *_PER_IMAGE, *after)
  columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}
  num_evaluated = len(columns["id"])
  return {
    **identity,
    **intervals.summarise(columns),
    "num_examples": num_evaluated,
    "complete": num_evaluated == identity["num_examples"],
    "robust_after": {name.removeprefix("after/"): float(columns[name].mean()) for name in after},
    "max_distance": float(columns["distance"].max()),
    "forward_per_image": float(columns["num_forward"].mean()),
    "backward_per_image": float(columns["num_backward"].mean()),
    "rejected": int(sum(chunk["rejected"] for chunk in chunks)),
    "warnings": sorted({str(line) for chunk in chunks for line in chunk["warnings"]}),
    "flags": {
      name: columns[name].astype(int).tolist()
      for name in ("id", "label", "pred", "pred_adv", "clean", "robust", *after)
    },
  }
