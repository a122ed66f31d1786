"""Several runs side by side: what they share, what they change, and going on after a stop."""

import json
import pathlib
import signal

import pytest

from jax_robust import config as config_lib
from jax_robust import jobs, overrides
from jax_robust.errors import ConfigError
from jax_robust.jobs import compare

COMPARISON = """
import runpy

def get_config(arg=""):
  config = runpy.run_path({tiny!r})["get_config"](arg)
  config.job = "compare"
  config.runs = {{
    "trades": {{}},
    "standard": {{"objective": {{"name": "standard"}}, "batch": {{"original_share": 1.0}}}},
  }}
  return config
"""


@pytest.fixture
def comparison(tmp_path):
  """The path of a config with two runs."""
  tiny = pathlib.Path(__file__).parent.parent / "tiny_config.py"
  path = tmp_path / "comparison.py"
  path.write_text(COMPARISON.format(tiny=str(tiny)))
  return path


def test_a_run_changes_keys_of_a_block_or_replaces_a_named_one(comparison):
  config = config_lib.load(str(comparison))
  overrides.override(config, "batch.size", "16")
  run = compare.run_config(config, "standard", "made")
  assert run.batch.size == 16 and run.batch.original_share == 1.0
  assert run.objective.to_dict() == {"name": "standard"}
  assert run.job == "train" and run.generated.path == "" and "runs" not in run
  run = compare.run_config(config, "trades", "elsewhere")
  assert run.objective.to_dict() == {"name": "trades", "beta": 6.0}
  assert run.generated.path == "elsewhere"


@pytest.mark.parametrize(
  "change, message",
  [
    ({"bach": {}}, r"'runs.a.bach': did you mean 'batch'\?"),
    ({"batch": {"sise": 3}}, r"'runs.a.batch.sise': did you mean 'size'\?"),
    ({"objective": {"name": "tradse"}}, r"config.objective.name='tradse': did you mean 'trades'\?"),
    ({"model": {"name": "mlp", "hiden": (3,)}}, r"config.model: .*hidden"),
  ],
)
def test_a_mistake_in_any_run_is_found_before_the_first_trains(tiny, tmp_path, change, message):
  config = tiny(job="compare")
  config.runs = {"a": change, "b": {}}
  with pytest.raises(ConfigError, match=message):
    jobs.run(config, str(tmp_path / "workdir"))
  assert not (tmp_path / "workdir").exists()


def test_no_runs_are_a_mistake(tiny, tmp_path):
  with pytest.raises(ConfigError, match=r"config\.runs is empty"):
    jobs.run(tiny(job="compare"), str(tmp_path))


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_was_stopped(command, comparison, tmp_path):
  folder = tmp_path / "workdir"
  argv = [f"--config={comparison}", f"--workdir={folder}"]
  assert command(argv, (signal.SIGTERM, "save", 2, 0)).code == 143
  assert not (folder / "results").exists()
  result = command(argv)
  assert result.code == 0, result.printed
  assert "resuming from step" in result.printed
  assert "| net " in result.printed and "| trades " in result.printed
  written = json.loads((folder / "results" / "compare.json").read_text())
  assert written["runs"].keys() == {"trades", "standard"}
  assert written["clean"] == written["runs"]["trades"]["clean"]
  assert (folder / "results" / "compare.png").stat().st_size > 5000
