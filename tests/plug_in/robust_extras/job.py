"""A job: how large a run's weights are."""

import jax

from jax_robust import job_table
from jax_robust.runs import workdir


def weigh(config, path, subject):
  """Counts a run's parameters, in units of `weigh.unit`."""
  count = sum(array.size for array in jax.tree.leaves(subject.params)) / config.weigh.unit
  workdir.write_result(path, "weigh", {"parameters": count})
  return {"parameters": count}


job_table.JOBS["weigh"] = job_table.Job(
  "robust_extras.job:weigh", block="weigh", defaults={"unit": 1.0}, may_change=("weigh.",),
  opens="jax_robust.runs.nets:open_model", of_a_run=True)  # fmt: skip
