"""A report over workdirs: one HTML page with a table, curves, pictures, hashes and commands.

  python -m jax_robust.main --config=configs/report_runs.py --config.report.runs='RUNS/*' \\
    --workdir=REPORT

The page is `REPORT/results/report.html`: one file, which asks no network. Several patterns are
separated by commas; of a sweep, a comparison or a study its trainings are in it. Nothing is trained
but with `smoke`, which has no runs to report on and takes two steps instead.

Arguments: `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg)
  config = presets.base()
  config.job = "train" if arg.smoke else "report"
  return presets.finish(config, arg)
