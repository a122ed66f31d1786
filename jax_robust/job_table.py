"""The table of jobs: a new job is one row of `JOBS` and a function `(config, path) -> result`.

It names functions and imports none, so that configs, runs, jobs and the command line can read it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Job(NamedTuple):
  """What there is to know of a job.

  Attributes:
    function: `module:name` of the function, imported when the job is wanted.
    block: name of the config's block that only this job, or its kin, reads.
    defaults: what the block holds.
    unread: keys of the block that are only its kin's; where one is changed, the job says so.
    optional: whether only some configs have the block.
    keywords: `module:name` of a function `(block) -> {name: inspect.Parameter}`: what else the
      block may hold.
    sources: `module:name` of a function `(block) -> [function]`: those whose keywords these are,
      and whose docstrings tell what they mean.
    may_change: config keys, by their beginning, that may differ between two starts in one workdir,
      since they change no result or the results' own identity tells.
    check: `module:name` of a function `(config)` that raises where the job could not run, before
      the workdir is touched; what all jobs need is checked anyway. What it returns, unless None, is
      given to the job as `checked`.
    opens: `module:name` of a function `(config, path) -> subject`: what the job is about, such as a
      trained model and test images, is opened by it and given to the job as `subject`.
    of_a_run: whether the workdir must be that of a run, unless the config names weights.
    shared: whether several starts may work in one workdir at once.
    keeps_config: whether the workdir's config stays as it is, and is not compared.
    trains: whether its config stays in the workdir when a job that reads its result runs there.
    tracks: whether it sends what it finds to the trackers by itself, given as `trackers`; of other
      jobs the result is sent.
    results: `module:name` of a function `(config, workdir, folders) -> result` that writes what the
      pieces in `folders` amount to. The pieces of job J lie in WORKDIR/results/J or J_NAME;
      where `results` is given, the job `merge` puts those of several workdirs together.
  """

  function: str
  block: str = ""
  defaults: Mapping[str, Any] = {}
  unread: tuple[str, ...] = ()
  optional: bool = False
  keywords: str = ""
  sources: str = ""
  may_change: tuple[str, ...] = ()
  check: str = ""
  opens: str = ""
  of_a_run: bool = False
  shared: bool = False
  keeps_config: bool = False
  trains: bool = False
  tracks: bool = False
  results: str = ""


_AUTOATTACK = {
  "version": "standard",
  "norm": "",
  "eps": 0.0,
  "chunk_size": 500,
  "shard": "0/1",
  "save_examples": False,
  "pieces": (),
}

_SMOOTHING = {
  "sigma": 0.0,
  "sigma_list": (),
  "weights": (),
  "denoiser": "",
  "images": "",
  "logs": (),
  "n0": 100,
  "n": 100_000,
  "alpha": 0.001,
  "skip": 1,
  "start": 0,
  "stop": 0,
  "max": 0,
  "noise": "gaussian",
  "radii": (),
  "tolerance": 0.0,
  "batch_size": 1000,
  "shard": "0/1",
  "pieces": (),
}

_EARLY_EXIT = {
  "rule": "budget",
  "budget": 20.0,
  "max_drop": 0.05,
  "delta": 0.05,
  "alpha": 0.05,
  "thresholds": "",
  "slowdowns": ("image", "both"),
  "aim": "average",
  "attacks": (
    "fgsm", "pgd_20", "pgd_100", "bim", "mim", "cw_linf", "cw_l2", "autoattack", "square",
  ),
  "aims": ("exits", "average", "max_average", "mean", "deployed"),
  "eps": 0.0,
  "max_steps": 0,
  "num_queries": 5000,
  "version": "standard",
  "chunk_size": 250,
  "shard": "0/1",
  "pieces": (),
}  # fmt: skip

_OF_EXIT_ATTACKS = (
  "attacks", "aims", "eps", "max_steps", "num_queries", "version", "chunk_size", "shard", "pieces",
)  # fmt: skip

_OF_CERTIFY = (
  "sigma_list", "weights", "logs", "n0", "skip", "start", "stop", "max", "radii", "tolerance",
  "pieces",
)  # fmt: skip

_MODEL = "jax_robust.runs.nets:open_model"

_EXITS = {
  "block": "early_exit",
  "defaults": _EARLY_EXIT,
  "may_change": ("early_exit.",),
  "opens": _MODEL,
  "of_a_run": True,
}

_SMOOTHED = {"block": "smoothing", "defaults": _SMOOTHING, "may_change": ("smoothing.",)}

JOBS = {
  "train": Job("jax_robust.jobs.train:train", trains=True, tracks=True),
  "evaluate": Job("jax_robust.jobs.evaluate:evaluate", opens=_MODEL, of_a_run=True),
  "autoattack": Job(
    "jax_robust.jobs.autoattack:autoattack",
    block="autoattack",
    defaults=_AUTOATTACK,
    may_change=("autoattack.",),
    check="jax_robust.jobs.autoattack:check",
    opens=_MODEL,
    of_a_run=True,
    results="jax_robust.jobs.autoattack:write_results",
  ),
  "early_exit": Job(
    "jax_robust.jobs.early_exit:early_exit",
    unread=_OF_EXIT_ATTACKS,
    check="jax_robust.jobs.early_exit:check",
    **_EXITS,
  ),
  "exit_attacks": Job(
    "jax_robust.jobs.exit_attacks:exit_attacks",
    unread=("slowdowns", "aim", "pieces"),
    check="jax_robust.jobs.exit_attacks:check",
    results="jax_robust.jobs.exit_attacks:write_results",
    **_EXITS,
  ),
  "certify": Job(
    "jax_robust.jobs.certify:certify",
    unread=("images", "logs", "pieces"),
    check="jax_robust.jobs.certify:check",
    of_a_run=True,
    results="jax_robust.jobs.certify:write_results",
    **_SMOOTHED,
  ),
  "predict": Job(
    "jax_robust.jobs.predict:predict",
    unread=_OF_CERTIFY,
    check="jax_robust.jobs.predict:check",
    of_a_run=True,
    results="jax_robust.jobs.predict:write_results",
    **_SMOOTHED,
  ),
  "analyse": Job(
    "jax_robust.jobs.analyse:analyse",
    unread=tuple(key for key in _SMOOTHING if key not in ("logs", "sigma")),
    check="jax_robust.jobs.analyse:read_logs",
    **_SMOOTHED,
  ),
  "curves": Job(
    "jax_robust.jobs.curves:curves",
    block="curves",
    defaults={"runs": ()},
    may_change=("curves.",),
    of_a_run=True,
  ),
  "report": Job(
    "jax_robust.jobs.report:report",
    block="report",
    defaults={"runs": (), "title": "Report", "pictures": True},
    may_change=("report.",),
    check="jax_robust.jobs.report:check",
  ),
  "complementarity": Job(
    "jax_robust.jobs.complementarity:complementarity",
    block="complementarity",
    defaults={
      "candidates": ("heldout", "noise", "augment"),
      "reference": "heldout",
      "pool_size": 5000,
      "features": "",
      "projection": 0,
    },
    may_change=("complementarity.",),
    check="jax_robust.jobs.complementarity:check",
  ),
  "merge": Job("jax_robust.jobs.merge:merge", check="jax_robust.jobs.merge:find_workdirs"),
  "generate": Job(
    "jax_robust.jobs.generate:generate",
    block="generate",
    defaults={"shard": "0/1", "pieces": ()},
    optional=True,
    keywords="jax_robust.jobs.generate:keywords",
    sources="jax_robust.jobs.generate:sources",
    check="jax_robust.jobs.generate:check",
    may_change=("generate.shard", "generate.pieces"),
    results="jax_robust.jobs.generate:write_results",
  ),
  "sweep": Job(
    "jax_robust.jobs.sweep:sweep",
    block="sweep",
    defaults={"grid": "", "baseline": "", "over": "seed", "then": ("evaluate",), "shard": "0/1"},
    may_change=("sweep.",),
    check="jax_robust.jobs.sweep:check",
    shared=True,
  ),
  "export": Job(
    "jax_robust.jobs.export:export",
    block="export",
    defaults={"format": "flax", "layout": ""},
    may_change=("export.",),
    check="jax_robust.jobs.export:check",
    of_a_run=True,
    keeps_config=True,
  ),
  "track": Job(
    "jax_robust.jobs.track:track",
    check="jax_robust.jobs.track:check",
    of_a_run=True,
    keeps_config=True,
    tracks=True,
  ),
  "compare": Job(
    "jax_robust.jobs.compare:compare",
    block="runs",
    optional=True,
    check="jax_robust.jobs.compare:check_runs",
    trains=True,
  ),
  "study": Job(
    "jax_robust.studies.job:study",
    block="study",
    optional=True,
    keywords="jax_robust.studies.job:keywords",
    sources="jax_robust.studies.job:sources",
    check="jax_robust.studies.job:check",
  ),
}
"""What `config.job` may name."""


def blocks(*, optional: bool = False) -> dict[str, dict[str, Any]]:
  """The jobs' blocks by name, with their defaults: those of every config, or the optional ones."""
  return {
    job.block: dict(job.defaults) for job in JOBS.values() if job.block and job.optional == optional
  }


def load(reference: str) -> Callable[..., Mapping[str, Any]]:
  """Imports the function that `module:name` stands for, with all that it needs."""
  module, _, name = reference.partition(":")
  return getattr(importlib.import_module(module), name)
