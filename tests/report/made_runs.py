"""Workdirs as jobs leave them, written by hand: nothing is trained."""

import functools
import json
import pathlib

from jax_robust import config as config_lib
from jax_robust.runs import result_check, workdir

TINY = pathlib.Path(__file__).parent.parent / "tiny_config.py"

VERSIONS = {
  "packages": {"jax_robust": "0.1.0", "jax": "0.10.2"},
  "python": "3.12.1",
  "platform": "Linux",
  "backend": "cpu",
  "devices": ["cpu"],
  "hardware": "2 cores of a <made> processor",
  "processes": 1,
  "date": "2026-11-27T12:00:00+00:00",
}
PNG = b"\x89PNG\r\n\x1a\n" + b"made"
SHA = "a" * 64
_IMAGES = {"split": "test", "images_sha256": "b" * 64, "labels_sha256": "c" * 64}


@functools.cache
def _tiny(steps):
  return config_lib.load(f"{TINY}:steps={steps}")


def config_data(steps=20, **changes):
  """The tiny config as plain data; `changes` are keys with `__` for the dots."""
  data = json.loads(json.dumps(config_lib.to_data(_tiny(steps))))
  for key, value in changes.items():
    *parents, name = key.split("__")
    functools.reduce(lambda block, each: block[each], parents, data)[name] = value
  return data


def write_result(folder, name, content, *, kind="", version=None):
  """Writes a result with what every result has; `version=0` is one of before there were any."""
  (folder / "results").mkdir(parents=True, exist_ok=True)
  whole = {"command": "", "versions": VERSIONS, **content}
  if version != 0:
    whole = result_check.stamped(kind or name, whole)
    whole["version"] = whole["version"] if version is None else version
  workdir.write_json(folder / "results" / f"{name}.json", whole)


def make_run(folder, *, clean=0.5, robust=0.25, rows=True, train=True, start=None, **changes):
  """A training that has ended and was evaluated; `robust=None` leaves the evaluation out."""
  (folder / "results").mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(config_data(**changes)))
  (folder / "versions.json").write_text(json.dumps(VERSIONS))
  start = {"ended": "done", "seconds": 75.0} if start is None else start
  first = {"start": "a", "job": "train", "command": f"made --workdir={folder.name}", **VERSIONS}
  lines = [first, *([{"start": "a", **start}] if start else [])]
  (folder / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  if rows:
    found = [
      {"step": step, "kind": kind, **values}
      for step in (10, 20)
      for kind, values in (
        ("train", {"loss": 3.0 - step / 20}),
        ("evaluate", {"clean": clean, "robust": (robust or 0.0) * step / 20}),
      )
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
  if train:
    write_result(folder, "train", {"step": 20, "preempted": False, "best": {}})
  if robust is not None:
    write_result(folder, "evaluate", evaluation(clean, robust))
  return folder


def evaluation(clean, robust):
  """What the job `evaluate` finds."""
  return {
    "evals": ["clean", "robust"],
    "num_examples": 200,
    "clean": clean,
    "clean_interval": [clean - 0.05, clean + 0.05],
    "robust": robust,
    "robust_interval": [robust - 0.05, robust + 0.05],
    "num_lost": {},
    "per_class": {},
    "eps": 0.1,
    "norm": "linf",
    "attack": {"name": "pgd", "num_steps": 10},
    "curve": [{"eps": 0.1, "robust": robust, "interval": [robust - 0.05, robust + 0.05]}],
    "exit": "last",
    "precision": "highest",
    **_IMAGES,
    "weights": {"step": 20, "checkpoint": "best", "sha256": SHA},
  }


def autoattack(clean, robust, *, warnings=(), sha256=SHA, eps=0.1, complete=True):
  """What the job `autoattack` finds."""
  intervals = {
    name: [max(value - 0.1, 0.0), min(value + 0.1, 1.0)]
    for name, value in (("clean_interval", clean), ("robust_interval", robust))
  }
  main = {"clean": clean, "robust": robust, **intervals, "eps": eps}
  found = {
    **main,
    "version": "standard",
    "norm": "linf",
    "seed": 0,
    "chunk_size": 50,
    "data": "made",
    "weights_sha256": sha256,
    "precision": "highest",
    **_IMAGES,
    "num_examples": 50,
    "complete": complete,
    "robust_after": {"apgd-ce": robust + 0.1, "square": robust},
    "max_distance": 0.1,
    "forward_per_image": 100.0,
    "backward_per_image": 90.0,
    "rejected": 0,
    "warnings": list(warnings),
    "flags": {"id": [0, 1]},
  }
  return {**main, "curve": [], "evaluations": [found]}


def certification(value, sigma=0.25):
  """What the job `certify` finds of a net."""
  return {
    "net": "lenet", "sigma": sigma, "trained_sigma": sigma, "n0": 10, "n": 100,
    "alpha": 0.001, "noise": "gaussian", "radii": [], "tolerance": 0.0,
    "start": 0, "stop": 0, "skip": 1, "max": 0, "seed": 0, "precision": "highest",
    "data": "made", "num_images": 40, "num_classes": 10, **_IMAGES, "weights_sha256": SHA,
    "complete": True,
    "average_certified_radius": {
      "value": value, "standard_error": 0.01, "low": value - 0.02, "high": value + 0.02,
    },
    "certified_accuracy": [{"radius": 0.0, "value": 0.9, "interval": [0.8, 1.0]}],
    "abstained": 1, "draws_per_image": 110.0, "seconds_per_image": 0.5,
  }  # fmt: skip
