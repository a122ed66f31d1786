"""Paths as they are typed: with `~`, as `FILE:ARGUMENT` or `NAME=PATH`, in lists, as patterns.

What exists is never taken apart: commas, colons and equals signs are part of many names.
"""

import glob
import itertools
import os
import pathlib
from collections.abc import Iterable, Sequence

from jax_robust.errors import ConfigError, shown

KEYS = (
  "imports_from", "data_dir", "init_from", "init_check", "data.name", "data.labels",
  "data.test_name",
  "generated.path", "generate.path", "generate.net", "generate.classifier", "smoothing.denoiser",
  "smoothing.images", "early_exit.thresholds", "complementarity.features",
  "study.images", "study.made_by",
)  # fmt: skip
"""The keys of a config that hold a path; `data.name` may."""

LISTS = (
  "smoothing.weights", "smoothing.logs", "smoothing.pieces", "autoattack.pieces", "generate.pieces",
  "early_exit.pieces", "curves.runs", "report.runs", "complementarity.candidates",
)  # fmt: skip
"""The keys that hold several; so do the `pieces` of any other job."""

_LONGEST = 4096  # characters of a path
_LONGEST_NAME = 255  # bytes, on Linux
_MOST_COMMAS = 8  # in one item of a list


def expand(text: str) -> str:
  """The path with its `~` or `~user` replaced, where there is such a home."""
  return os.path.expanduser(text)


def is_too_long(path: str) -> bool:
  """Whether a path, or a name in it, is longer than file systems take.

  >>> is_too_long("a" * 256), is_too_long("a/" * 128)
  (True, False)
  """
  encoded = path.encode("utf-8", "surrogatepass")
  return len(encoded) >= _LONGEST or any(len(name) > _LONGEST_NAME for name in encoded.split(b"/"))


def is_listed(key: str) -> bool:
  """Whether a config key, such as `smoothing.logs`, holds a list of paths."""
  return key in LISTS or key.endswith(".pieces")


def expand_item(item: str) -> str:
  """`expand` of an item of a list, which may be `NAME=PATH`."""
  name, path = split_name(item)
  return f"{name}={path}" if name else path


def split_name(item: str) -> tuple[str, str]:
  """`NAME=PATH` as `(name, path)`, cut at its first `=`; a path that exists has no name.

  >>> split_name("ours=logs/sigma=0.5.tsv")
  ('ours', 'logs/sigma=0.5.tsv')
  """
  whole = expand(item)
  if os.path.lexists(whole) or "=" not in item:
    return "", whole
  name, _, path = item.partition("=")
  return name, expand(path)


def split_list(text: str, key: str = "") -> tuple[str, ...]:
  """The items of a list, whose paths may have commas in them where they exist.

  Raises:
    ConfigError: an item is empty.

  >>> split_list("RUN/0.25, RUN/1e3")
  ('RUN/0.25', 'RUN/1e3')
  """
  text = text.strip()
  if text[:1] + text[-1:] in ("()", "[]") and not _exists(text):
    text = text[1:-1].strip()
  if not text:
    return ()
  parts, items = text.split(","), []
  if not parts[-1].strip():
    parts.pop()  # a trailing comma
  while parts:
    count = min(len(parts), _MOST_COMMAS + 1)
    while count > 1 and not _exists(",".join(parts[:count])):
      count -= 1
    item = ",".join(parts[:count]).strip()
    if not item:
      raise ConfigError(f"{key}: an item of the list is empty")
    items.append(item if _exists(item) else item.strip("'\""))
    parts = parts[count:]
  return tuple(items)


def split_argument(reference: str) -> tuple[str, str] | None:
  """`FILE:ARGUMENT` as the longest file that exists and the rest; None where none does.

  >>> split_argument("nowhere.py:smoke") is None
  True
  """
  text = expand(reference)
  cuts = [len(text), *(i for i in range(len(text) - 1, -1, -1) if text[i] == ":")]
  for cut in cuts:
    if cut <= _LONGEST and os.path.isfile(text[:cut]):
      return text[:cut], text[cut + 1 :]
  return None


def matches(pattern: str) -> list[pathlib.Path]:
  """The files and folders that a path with `*`, `?` or `[…]` stands for, sorted."""
  path = expand(pattern)
  if os.path.lexists(path):
    return [pathlib.Path(path)]
  return sorted(map(pathlib.Path, glob.glob(path)))


def run_name(path: str | os.PathLike) -> str:
  """What the results of a workdir or of a file of weights are called by: its name, dots and all.

  >>> run_name("RUNS/mix_0.25/"), run_name("mix_0.25.safetensors")
  ('mix_0.25', 'mix_0.25')
  """
  name = os.path.basename(os.path.abspath(path))
  for suffix in (".safetensors", ".npz"):
    if not os.path.isdir(path):
      name = name.removesuffix(suffix)
  return name


def named_run(item: str) -> tuple[str, str]:
  """`NAME=PATH`, or a path alone, as the name that results are called by, and the path.

  >>> named_run("ours=RUNS/mix_0.25"), named_run("RUNS/mix_0.25")
  (('ours', 'RUNS/mix_0.25'), ('mix_0.25', 'RUNS/mix_0.25'))
  """
  name, path = split_name(item)
  if not name or os.sep in name:  # a path with `=` in it, which is not there
    return run_name(item), expand(item)
  return name, path


def without_common_parts(texts: Iterable[str]) -> dict[str, str]:
  """What tells paths apart: each without the folders that all begin or end with.

  Texts that are no paths, or a single one, stay as they are.

  >>> without_common_parts(["/sets/ddpm/generated", "/sets/fit/generated"])
  {'/sets/ddpm/generated': 'ddpm', '/sets/fit/generated': 'fit'}
  """
  whole = list(dict.fromkeys(texts))
  parts = [text.strip("/").split("/") for text in whole]
  if len(whole) < 2 or not any("/" in text for text in whole):
    return {text: text for text in whole}
  least = min(map(len, parts)) - 1  # something is left of each
  front = _num_common(parts, least)
  back = _num_common([each[::-1] for each in parts], least - front)
  left = ["/".join(each[front : len(each) - back]) for each in parts]
  return dict(zip(whole, left, strict=True))


def _num_common(parts: Sequence[Sequence[str]], most: int) -> int:
  """How many parts all lists begin with, at most so many."""
  columns = itertools.islice(zip(*parts, strict=False), max(most, 0))
  return sum(1 for _ in itertools.takewhile(lambda column: len({*column}) == 1, columns))


def workdir(text: str | os.PathLike) -> str:
  """The folder that `--workdir` names.

  Raises:
    ConfigError: it is empty, no path, or a bucket.
  """
  text = str(text)
  if "\0" in text:
    raise ConfigError(f"workdir={shown(text)}: a path holds no zero byte")
  if not text.strip():
    raise ConfigError("--workdir= is empty: where should the run live?")
  if "://" in text:
    raise ConfigError(
      f"--workdir={text}: expected a folder; mount the bucket (gcsfuse, say), since a run locks "
      "its workdir and appends to its metrics"
    )
  return expand(text)


def _exists(item: str) -> bool:
  """Whether an item of a list, or the path after its name, is there or matches something."""
  item = item.strip()
  name, path = split_name(item)
  return bool(matches(item) or ("," not in name and matches(path)))
