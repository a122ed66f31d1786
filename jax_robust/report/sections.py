"""The part of a report about one run: its results, pictures, warnings, config and hashes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jax_robust.evaluate.robustbench import fraction
from jax_robust.report import differences, table
from jax_robust.report.html import Child, Element, element, joined, picture
from jax_robust.report.html import table as html_table
from jax_robust.report.numbers import interval_text, number
from jax_robust.report.reading import Record, Result
from jax_robust.report.status import FINISHED, status_of, warnings_of, weights_of
from jax_robust.report.table import PERCENT, PLAIN, RADIUS
from jax_robust.runs import result_fields, result_kinds, workdir
from jax_robust.train.metrics import clock

_FEW_KEYS = 12


def section(
  record: Record, identity: str, keys: Sequence[str], *, is_open: bool, pictures: bool
) -> Element:
  """What there is to say of a run, under a line that folds it away.

  Args:
    record: the run.
    identity: of the element, that links lead to.
    keys: in which the runs of the report differ.
    is_open: whether it is unfolded at first.
    pictures: whether its pictures are in it.
  """
  status, warnings = status_of(record), warnings_of(record)
  shown = record.pictures.items() if pictures else ()
  return element(
    "details",
    element(
      "summary",
      record.name,
      element("small", status, class_="good" if status == FINISHED else "bad"),
    ),
    _commands(record),
    _warnings(warnings),
    [_result(name, result) for name, result in _ordered(record)],
    _heading("Pictures") if shown else (),
    element("div", [picture(png, name) for name, png in shown], class_="pictures") if shown else (),
    _config(record, keys),
    _hashes(record),
    _starts(record),
    id=identity,
    class_="run",
    open=is_open,
  )


def _heading(text: str) -> Element:
  return element("h3", text)


def _commands(record: Record) -> Child:
  """How the run was begun, and how it is made again."""
  typed, again = table.command_of(record), table.repeat_command(record)
  lines = [("Started by", typed)] if typed != again else []
  return [
    joined(_heading(name), command_line(text)) for name, text in [*lines, ("To repeat it", again)]
  ]


def command_line(text: str) -> Element:
  """A command with a button that copies it."""
  return element("div", element("pre", element("code", text)), copy_button(text), class_="command")


def copy_button(text: str) -> Element:
  """A button that copies a text."""
  return element("button", "copy", type="button", class_="copy", data_copy=text)


def _warnings(lines: Sequence[str]) -> Child:
  """What a reader must know before the numbers."""
  if not lines:
    return ()
  head = element("strong", "1 warning" if len(lines) == 1 else f"{len(lines)} warnings")
  listed = element("ul", [element("li", line) for line in lines])
  return element("div", head, listed, class_="note", role="note")


def _ordered(record: Record) -> list[tuple[str, Result]]:
  """The results in the order in which a reader wants them."""
  order = [*_SHOWN, *result_kinds.KINDS]
  return sorted(
    record.results.items(),
    key=lambda item: (order.index(item[1].kind) if item[1].kind in order else 99, item[0]),
  )


def _result(name: str, result: Result) -> Child:
  """A result under its name."""
  show = _SHOWN.get(result.kind, _facts)
  content = show(result.content)
  if not content:
    return ()
  old = element("small", " of an earlier version") if result.version == 0 else ()
  return [element("h3", name, old), content]


def _facts(content: Mapping[str, Any]) -> Child:
  """The numbers and texts of a result that has no table of its own."""
  plain = {
    key: value
    for key, value in content.items()
    if key not in result_fields.COMMON
    and not key.endswith(("_interval", "sha256"))
    and isinstance(value, (int, float, str))
  }
  pairs = [
    (element("dt", key), element("dd", _with_interval(value, content.get(f"{key}_interval"))))
    for key, value in plain.items()
  ]
  return element("dl", pairs, class_="facts") if pairs else ()


def _with_interval(value: Any, interval: Any, kind: str = PLAIN) -> str:
  """A number, with its interval if there is one."""
  text = number(value, kind)
  return f"{text} {interval_text(interval, kind)}" if interval else text


def _train(content: Mapping[str, Any]) -> Child:
  """Where a training ended, and its best checkpoint on held-out images."""
  best = content["best"]
  said = f"{content['step']:,} steps"
  if best:
    said += f"; best checkpoint at step {best.get('step')}: {best.get('metric')} "
    said += f"{number(best.get('value'), PLAIN)} on held-out images"
  return element("p", said)


def _evaluate(content: Mapping[str, Any]) -> Child:
  """What was measured, and the curve over radii."""
  measures = [
    (
      name,
      _with_interval(content[name], content.get(f"{name}_interval"), table.kind_of(content[name])),
    )
    for name in content["evals"]
  ]
  attack = content.get("attack")
  under = f", attacked by {table.attack_name(attack)} in {content['norm']}" if attack else ""
  weights = content["weights"]
  step = f" of step {weights['step']}" if weights.get("step") is not None else ""
  said = f"{content['num_examples']:,} images{under}; weights: {weights.get('checkpoint')}{step}"
  points = [
    (fraction(each["eps"]), _with_interval(each["robust"], each["interval"], PERCENT))
    for each in content.get("curve", ())
  ]
  return [
    element("p", said, class_="soft"),
    html_table(("measure", "% [95 % interval]"), measures),
    html_table(("eps", "robust % [95 % interval]"), points) if points else (),
  ]


def _autoattack(content: Mapping[str, Any]) -> Child:
  """A row for each radius: after each attack, and in the end."""
  every = content["evaluations"]
  stages = list(dict.fromkeys(name for each in every for name in each["robust_after"]))
  rows = [
    (
      fraction(each["eps"]),
      f"{each['num_examples']:,}",
      _with_interval(each["clean"], each["clean_interval"], PERCENT),
      *(number(each["robust_after"].get(name, ""), PERCENT) for name in stages),
      _with_interval(each["robust"], each["robust_interval"], PERCENT),
      f"{each['forward_per_image']:.0f} + {each['backward_per_image']:.0f}",
    )
    for each in every
  ]
  head = ("eps", "images", "clean %", *(f"after {name} %" for name in stages), "robust %")
  said = f"{every[0]['norm']}, version {table.version_name(every[0])}; 95 % intervals"
  return [
    element("p", said, class_="soft"),
    html_table((*head, "forward + backward passes an image"), rows),
  ]


def _robustbench(content: Mapping[str, Any]) -> Child:
  """Whether the number may stand beside those of the leaderboard."""
  verdict = content["comparable with the leaderboard"]
  return element("p", "Comparable with the leaderboard of RobustBench: ", element("b", verdict))


def _certify(content: Mapping[str, Any]) -> Child:
  """The average radius, and the certified accuracy by radius."""
  average = content["average_certified_radius"]
  interval = average["low"], average["high"]
  said = (
    f"σ {content['sigma']:g}, n {content['n']:,}, α {content['alpha']:g}, "
    f"{content['num_images']:,} images, {content['abstained']} abstained; "
    f"{content['seconds_per_image']:.2g} s an image"
  )
  rows = [
    (f"{each['radius']:g}", _with_interval(each["value"], each["interval"], PERCENT))
    for each in content["certified_accuracy"]
  ]
  return [
    element("p", said, class_="soft"),
    element("p", "Average certified radius ", _with_interval(average["value"], interval, RADIUS)),
    html_table(("l2 radius", "certified % [95 % band]"), rows),
  ]


def _sweep(content: Mapping[str, Any]) -> Child:
  """A row for each setting, means over seeds."""
  keys = list(dict.fromkeys(key for row in content["rows"] for key in row["changes"]))
  names = list(dict.fromkeys(name for row in content["rows"] for name in row["means"]))
  rows = [
    [
      *(row["changes"].get(key, "") for key in keys),
      str(row["cells"]),
      *(_mean(row["means"].get(name)) for name in names),
    ]
    for row in content["rows"]
  ]
  missing = content["missing"]
  left = element("p", f"not finished: {', '.join(missing)}", class_="bad") if missing else ()
  head = (*keys, "cells", *(f"{name} [95 % interval]" for name in names))
  return [element("p", content["grid"], class_="soft"), html_table(head, rows), left]


def _mean(mean: Mapping[str, Any] | None) -> str:
  """A mean over seeds."""
  if mean is None:
    return ""
  return _with_interval(mean["value"], (mean["low"], mean["high"]))


def _study(content: Mapping[str, Any]) -> Child:
  """The claim, our answer, and our numbers beside the published ones."""
  ours, theirs = (_flat(content[name]) for name in ("ours", "published"))
  rows = [(name, ours.get(name, ""), theirs.get(name, "")) for name in {**ours, **theirs}]
  return [
    element("p", content["claim"]),
    element("p", element("b", content["answer"]), f" ({content['num_seeds']} seeds)"),
    html_table(("", "ours", "published"), rows),
  ]


def _flat(values: Any, above: str = "") -> dict[str, str]:
  """Nested numbers as lines; one with an interval is a line."""
  if isinstance(values, Mapping):
    if {"value", "low", "high"} <= values.keys():
      return {above: _with_interval(values["value"], (values["low"], values["high"]))}
    found: dict[str, str] = {}
    for name, each in values.items():
      found |= _flat(each, f"{above}, {name}" if above else str(name))
    return found
  return {above: differences.shown(values)}


_SHOWN: dict[str, Callable[[Mapping[str, Any]], Child]] = {
  "study": _study,
  "sweep": _sweep,
  "train": _train,
  "evaluate": _evaluate,
  "autoattack": _autoattack,
  "robustbench": _robustbench,
  "certify": _certify,
  "cell": lambda content: (),
  "compare": lambda content: (),
  "curves": lambda content: (),
}
"""How each kind is shown; others by their numbers and texts."""


def _config(record: Record, keys: Sequence[str]) -> Child:
  """What the run's config has where those of others differ."""
  there = [key for key in keys if differences.value_of(record, key) != differences.ABSENT]
  if not there:
    return ()
  rows = [(key, differences.value_of(record, key)) for key in there]
  listed = html_table(("key", "value"), rows)
  if len(rows) <= _FEW_KEYS:
    return [_heading("Config, where runs differ"), listed]
  return element(
    "details",
    element("summary", f"Config, the {len(rows)} keys in which runs differ"),
    listed,
  )


def _hashes(record: Record) -> Child:
  """Digests of weights and data."""
  pairs = [
    (f"weights ({', '.join(names)})", digest) for digest, names in weights_of(record).items()
  ]
  for key in ("images_sha256", "labels_sha256"):
    found: dict[str, list[str]] = {}
    for name, result in record.results.items():
      for each in (result.content, *result.content.get("evaluations", ())):
        if isinstance(each.get(key), str) and name not in found.get(each[key], ()):
          found.setdefault(each[key], []).append(name)
    what = key.removesuffix("_sha256")
    pairs += [(f"{what} ({', '.join(names)})", digest) for digest, names in found.items()]
  note = record.folder / workdir.DATA
  if record.note:
    pairs.append((workdir.DATA, hashlib.sha256(note.read_bytes()).hexdigest()))
  if not pairs:
    return ()
  listed = [(element("dt", name), element("dd", element("code", value))) for name, value in pairs]
  return [_heading("Hashes (sha256)"), element("dl", listed, class_="facts")]


def _starts(record: Record) -> Child:
  """Every job that was started here."""
  rows = [list(_start(each)) for each in record.starts]
  if not rows:
    return ()
  head = ("job", "began (UTC)", "took", "ended", "hardware", "command")
  return element(
    "details", element("summary", f"Starts of jobs: {len(rows)}"), html_table(head, rows)
  )


def _start(start: Mapping[str, Any]) -> Iterator[Child]:
  """The cells of a start."""
  seconds = start.get("seconds")
  yield start["job"]
  yield str(start.get("date", "")).replace("T", " ")[:19]
  yield clock(seconds) if isinstance(seconds, (int, float)) else ""
  yield str(start.get("ended", "killed, or running when this was read"))
  yield str(start.get("hardware", ""))
  yield element("code", str(start.get("command", "")))
