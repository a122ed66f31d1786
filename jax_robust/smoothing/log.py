"""Certification logs: tab-separated tables with one row per image, as published programs write."""

import datetime
import gzip
import hashlib
import io
import json
import math
import os
import pathlib
import re
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_robust.atomic import read_bytes, write_atomically
from jax_robust.smoothing.bounds import ABSTAIN
from jax_robust.smoothing.claims import header_problem, radius_problem
from jax_robust.smoothing.rounding import format_radius

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
"""The columns as published programs write them."""

DIGITS = 15
"""Significant digits of a radius: as many as a float64 keeps. Published logs have 3, rounded."""

_GZIP = b"\x1f\x8b"
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CLOCK = re.compile(
  r"(?:(-?[0-9]{1,9}) days?, )?([0-9]{1,9}):([0-5]?[0-9]):([0-5]?[0-9](?:\.[0-9]*)?)"
)

ROWS_SHA256 = "rows_sha256"
"""A header that has this key, whatever its value, is written with the digest of the whole log, and
the log held to it when it is read: so does the certification job."""

_MOST_BYTES = 1 << 28  # of a log, unzipped: four million rows
_MOST_SECONDS = 1e10
_MOST_COMMENTS = 1000
_MOST_OF_A_REASON = 400  # characters
_MOST_OF_A_FIELD = 60


class LogError(ValueError):
  """A file is not a complete certification log; the message names file, line and reason."""


class CertifyLog(NamedTuple):
  """The results of CERTIFY for n images.

  Attributes:
    idx: number of the image in its data set, increasing, `[n]`.
    label: true class, `[n]`.
    predict: class that the smoothed classifier is certified to return, -1 where it abstains, `[n]`.
    radius: certified l2 radius in units of the image, 0 where it abstains, `[n]` float64.
    correct: predict == label, `[n]`.
    seconds: time that the image took, `[n]` float64.
    name: where the log comes from.
    header: settings of the certification (`sigma`, `n0`, `n`, `alpha`, ...), as far as it is known.
  """

  idx: Int[np.ndarray, " n"]
  label: Int[np.ndarray, " n"]
  predict: Int[np.ndarray, " n"]
  radius: Float[np.ndarray, " n"]
  correct: Bool[np.ndarray, " n"]
  seconds: Float[np.ndarray, " n"]
  name: str = ""
  header: Mapping[str, Any] = types.MappingProxyType({})


def make_log(
  idx: Sequence[int] | Int[np.ndarray, " n"],
  label: Sequence[int] | Int[np.ndarray, " n"],
  predict: Sequence[int] | Int[np.ndarray, " n"],
  radius: Sequence[int | float] | Float[np.ndarray, " n"],
  seconds: Sequence[int | float] | Float[np.ndarray, " n"] | None = None,
  *,
  name: str = "",
  header: Mapping[str, Any] = types.MappingProxyType({}),
) -> CertifyLog:
  """A log of results in memory, checked as a file would be.

  Args:
    idx: numbers of the images, increasing, `[n]`.
    label: true classes, `[n]`.
    predict: certified classes, -1 where the classifier abstains (a `Certificate`'s `label`), `[n]`.
    radius: certified radii, 0 where it abstains, `[n]`.
    seconds: time that each took; None: 0.
    name: for messages and tables.
    header: settings.

  Raises:
    ValueError: lengths differ; a row that `read_log` would refuse; a radius above what the header's
      settings allow.

  >>> make_log([0, 1], [7, 2], [7, -1], [0.5, 0.0]).correct.tolist()
  [True, False]
  """
  idx, label, predict = (
    _integers(name, column)
    for name, column in (("idx", idx), ("label", label), ("predict", predict))
  )
  radius = np.asarray(radius, np.float64)
  seconds = np.zeros(len(idx)) if seconds is None else np.asarray(seconds, np.float64)
  lengths = {len(column) for column in (idx, label, predict, radius, seconds)}
  if len(lengths) != 1:
    raise ValueError(f"columns of {sorted(lengths)} rows: expected one length")
  log = CertifyLog(idx, label, predict, radius, predict == label, seconds, name, header)
  if problem := radius_problem(idx, np.nan_to_num(radius), header):
    raise ValueError(problem)
  previous = -1
  for row in zip(*(column.tolist() for column in log[:5]), strict=True):
    if fault := _fault(previous, *row):
      raise ValueError(f"image {row[0]}: {fault}")
    previous = row[0]
  return log


def read_log(path: str | os.PathLike, num_examples: int | None = None) -> CertifyLog:
  """Reads a certification log; a damaged or contradictory one is refused with line and reason.

  The format: optional lines that begin with `#`, whose JSON objects are the header; the names of
  the columns `idx label predict radius correct time`, in any order, separated by tabs; one row per
  image. Times are `H:MM:SS.ffffff`, `N days, H:MM:SS`, or seconds. The file may be gzipped,
  whatever its name.

  Guarantees:
    `published_logs_give_their_numbers`: see `curves`.
    `a_log_survives_writing`: what `write_log` wrote is read as it was, but for the 16th digit of a
      radius and less than a microsecond; written again, the file is the same, byte by byte.
    `damage_is_refused`: a file cut anywhere but between two rows (there, `num_examples` notices),
      a row that contradicts itself or its neighbours, a radius that no votes could prove at the
      header's sigma, n and alpha, and rows that are not those of the header: their number
      (`num_images`), images, labels, classes and digest, as far as it has them.
    `reading_is_linear`: in the length of the file, whatever it holds.

  Args:
    path: of the file.
    num_examples: the least number of rows that is expected; None: at least one.

  Returns:
    The log, its `name` the file's.

  Raises:
    LogError: columns unknown, missing or repeated; a row that is cut or not of the columns' types;
      a radius that is NaN, infinite, negative, or not 0 where the classifier abstains; `idx` that
      doesn't increase; `correct` that contradicts predict == label; no rows, or less than
      `num_examples`; what contradicts the header.
    OSError: the file can't be opened.
  """
  lines = _lines(path)
  header: dict[str, Any] = {}
  number, line = 0, ""
  digest = hashlib.sha256()
  for number, line in lines:
    if not line.startswith("#") or number > _MOST_COMMENTS:
      break
    header.update(_json_object(path, number, line[1:]))
  if number == 0 or line.startswith("#"):
    raise _refusal(path, number + 1, f"no table: expected a line of the columns {list(COLUMNS)}")
  order = _column_order(path, number, line)
  digest.update(f"{line}\n".encode())
  rows, previous = [], -1
  for number, line in lines:
    digest.update(f"{line}\n".encode())
    try:
      row = _parse(line, order)
      fault = _fault(previous, *row[:5])
    except ValueError as error:
      raise _refusal(path, number, str(error)) from None
    if fault:
      raise _refusal(path, number, fault)
    previous = row[0]
    rows.append(row)
  if len(rows) < max(num_examples or 1, 1):
    expected = f"expected {num_examples}" if num_examples else "expected at least one"
    raise _refusal(path, number + 1, f"the log ends after {len(rows)} rows: {expected}")
  kinds = (np.int64, np.int64, np.int64, np.float64, bool, np.float64)
  columns = map(np.array, zip(*rows, strict=True), kinds)
  log = CertifyLog(*columns, name=pathlib.Path(path).name, header=header)
  problem = radius_problem(log.idx, log.radius, header, path) or header_problem(header, *log[:3])
  if not problem and header.get(ROWS_SHA256) not in (None, _whole_digest(header, digest)):
    problem = "its header or rows are not what they were written as (rows_sha256)"
  if problem:
    raise LogError(f"{os.fspath(path)}: {problem}")
  return log


def write_log(path: str | os.PathLike, log: CertifyLog, *, digits: int = DIGITS) -> None:
  """Writes a log: its header, if there is one, in a comment; gzipped where the name ends in .gz.

  Other programs read no comments: give them `log._replace(header={})`. The file appears whole or
  not at all.

  Args:
    path: of the file; one that is there is replaced.
    log: the rows.
    digits: significant digits of the radii, which are rounded down to them.

  Raises:
    ValueError: a row or header that `read_log` would refuse.
  """
  path = pathlib.Path(path)
  make_log(log.idx, log.label, log.predict, log.radius, log.seconds, header=log.header)
  if problem := header_problem(log.header, *log[:3]):
    raise ValueError(problem)
  lines: list[str] = ["\t".join(COLUMNS)]
  for idx, label, predict, radius, _, seconds in zip(*map(np.ndarray.tolist, log[:6]), strict=True):
    time = datetime.timedelta(seconds=seconds)
    row = idx, label, predict, format_radius(radius, digits), int(predict == label), time
    lines.append("\t".join(map(str, row)))
  data = "".join(f"{line}\n" for line in lines).encode()
  header = dict(log.header)
  if ROWS_SHA256 in header:
    header[ROWS_SHA256] = _whole_digest(header, hashlib.sha256(data))
  if header:
    data = f"# {json.dumps(header, sort_keys=True)}\n".encode() + data
  if path.suffix == ".gz":
    data = gzip.compress(data, mtime=0)
  write_atomically(path, data)


def _integers(name: str, column) -> np.ndarray:
  """A column of whole numbers."""
  column = np.asarray(column)
  if column.size and not np.issubdtype(column.dtype, np.integer):
    raise ValueError(f"{name} has dtype {column.dtype}: expected integers")
  return column.astype(np.int64)


def _fault(previous: int, idx: int, label: int, predict: int, radius: float, correct: int):
  """What is wrong with a row, or None; `previous` is the number of the image before it, or -1."""
  if idx < 0:
    return f"idx={idx}: expected a number >= 0"
  if idx <= previous:
    order = "again" if idx == previous else f"after {previous}"
    return f"idx={idx} {order}: expected it to increase"
  if label < 0 or predict < ABSTAIN:
    return f"label={label}, predict={predict}: expected classes >= 0, or predict=-1 (abstains)"
  if not (math.isfinite(radius) and radius >= 0):
    return f"radius={radius}: expected a finite number >= 0"
  if predict == ABSTAIN and radius > 0:
    return f"radius={radius}, though the classifier abstains (predict=-1): expected 0"
  if correct != (predict == label):
    return f"correct={correct} contradicts label={label}, predict={predict}"
  return None


def _refusal(path, number: int, reason: str) -> LogError:
  """The error for a line, however long that is."""
  reason = reason if len(reason) <= _MOST_OF_A_REASON else f"{reason[:_MOST_OF_A_REASON]}..."
  return LogError(f"{os.fspath(path)}, line {number}: {reason}")


def _lines(path) -> Iterator[tuple[int, str]]:
  """The lines of a file, plain or gzipped, with their numbers."""
  data = read_bytes(path)
  if data.startswith(_GZIP):
    data = _unzip(path, data)
  for number, line in enumerate(data.splitlines(keepends=True), 1):
    if not line.endswith((b"\n", b"\r")):
      raise _refusal(path, number, "the file is cut: its last line has no end")
    try:
      yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
      raise _refusal(path, number, "no text (UTF-8)") from None


def _unzip(path, data: bytes) -> bytes:
  """The content of a gzip file of one or several members."""
  text = bytearray()
  try:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
      while part := file.read(1 << 20):
        text += part
        if len(text) > _MOST_BYTES:
          raise _refusal(path, 1, f"no log: it unzips to more than {_MOST_BYTES:,} bytes")
  except EOFError:
    raise _refusal(path, text.count(b"\n") + 1, "the gzip file is cut") from None
  except (OSError, zlib.error) as error:
    raise _refusal(path, text.count(b"\n") + 1, f"damaged gzip file ({error})") from error
  return bytes(text)


def _json_object(path, number: int, text: str) -> dict[str, Any]:
  """The settings in a comment; none where it is a remark."""
  if not text.lstrip().startswith("{"):
    return {}
  try:
    content = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise _refusal(path, number, f"the header is no JSON ({error})") from None
  return content if isinstance(content, dict) else {}


def _whole_digest(header: Mapping[str, Any], table) -> str:
  """The sha256 of a header and, by its sha256, of the table below it."""
  rest = {key: value for key, value in header.items() if key != ROWS_SHA256}
  text = json.dumps(rest, sort_keys=True) + table.hexdigest()
  return hashlib.sha256(text.encode()).hexdigest()


def _column_order(path, number: int, line: str) -> list[int]:
  """The place of each of `COLUMNS` in a row."""
  names = line.split("\t")
  if sorted(names) != sorted(COLUMNS):
    reasons = [f"no column {name!r}" for name in COLUMNS if name not in names]
    unknown = [name[:_MOST_OF_A_FIELD] for name in names if name not in COLUMNS]
    reasons += [f"unknown column {name!r}" for name in unknown[:3]]
    reasons += [f"{len(unknown)} unknown columns in all"] if len(unknown) > 3 else []
    reasons += [f"column {name!r} twice" for name in COLUMNS if names.count(name) > 1]
    raise _refusal(path, number, f"{'; '.join(reasons)}: expected {list(COLUMNS)} between tabs")
  return [names.index(name) for name in COLUMNS]


def _parse(line: str, order: Sequence[int]) -> tuple[int, int, int, float, int, float]:
  """The values of a line, in the order of `COLUMNS`; raises ValueError with the reason."""
  cells = line.split("\t")
  if len(cells) != len(order):
    shown = line[: 2 * _MOST_OF_A_FIELD]
    raise ValueError(f"{len(cells)} fields {shown!r}: expected {len(order)}, between tabs")
  fields = [cells[place].strip() for place in order]
  for name, field in zip(COLUMNS, fields, strict=True):
    if len(field) > _MOST_OF_A_FIELD:
      raise ValueError(f"{name}={field[:_MOST_OF_A_FIELD]!r}...: {len(field)} characters")
    if name not in ("radius", "time") and not _INTEGER.fullmatch(field):
      raise ValueError(f"{name}={field!r}: expected an integer")
  idx, label, predict, radius, correct, time = fields
  if not _NUMBER.fullmatch(radius):
    raise ValueError(f"radius={radius!r}: expected a finite number >= 0")
  return int(idx), int(label), int(predict), float(radius), int(correct), _seconds(time)


def _seconds(time: str) -> float:
  """A duration, as Python prints a timedelta or in plain seconds."""
  if _NUMBER.fullmatch(time) and abs(float(time)) <= _MOST_SECONDS:
    return float(time)
  match = _CLOCK.fullmatch(time)
  if not match:
    raise ValueError(f"time={time!r}: expected H:MM:SS.ffffff or seconds")
  days, hours, minutes, seconds = match.groups(default="0")
  return 86400 * int(days) + 3600 * int(hours) + 60 * int(minutes) + float(seconds)
