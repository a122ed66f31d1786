"""`config:smoke` of every config and argument: right before data, and, slowly, run to its end."""

import pytest
from test_configs import CASES

from jax_robust import config as config_lib
from jax_robust import job_table, main, presets
from jax_robust.runs import check

SMOKE = [f"{case},smoke" if not case.endswith(":") else f"{case}smoke" for case in CASES]


def test_every_config_ships_with_a_smoke_case():
  assert {case.split(":")[0] for case in SMOKE} == set(config_lib.shipped())


@pytest.mark.parametrize("reference", SMOKE)
def test_the_smoke_version_of_every_config_is_right(reference):
  config = presets.complete(config_lib.load(reference))
  check.check(config)
  job = job_table.JOBS[config.job]
  if job.check:
    job_table.load(job.check)(config)


@pytest.mark.slow
@pytest.mark.parametrize("reference", SMOKE)
def test_the_smoke_version_of_every_config_runs(reference, tmp_path):
  assert main.main([f"--config={reference}", f"--workdir={tmp_path}"]) == 0
