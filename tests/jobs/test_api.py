"""The jobs as functions of Python, and what they return."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import api
from jax_robust import config as config_lib
from jax_robust.errors import ConfigError, WorkdirError


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
  """A training of two steps."""
  return api.train(tiny("steps=2,save=2,evaluate=2,log=1"), tmp_path_factory.mktemp("api") / "run")


def test_a_training_is_an_object(trained):
  assert trained.job == "train" and trained.result["step"] == 2
  columns = trained.metrics
  assert columns["step"].tolist() == [1, 2, 2] and set(columns["kind"]) == {"train", "evaluate"}
  assert {len(column) for column in columns.values()} == {3}
  assert np.isnan(columns["robust"]).tolist() == [True, True, False]
  x = jnp.full((2, 12, 12, 3), 0.5)
  assert trained.logits_fn(x).shape == (2, 10)
  assert trained.variables["params"]["logits"]["bias"].shape == (10,)
  assert str(trained.path) in repr(trained) and "batch" not in repr(trained)


def test_jobs_of_a_run_return_numbers_and_figures(trained):
  found = api.evaluate(trained, {"evaluation.eps_list": [0.05], "evaluation.batch_size": "8"})
  assert [point["eps"] for point in found.result["curve"]] == [0.0, 0.05, 0.1]
  assert found.figures["evaluate"].get_axes()
  found = api.autoattack(
    str(trained.path), {"autoattack.version": "apgd-ce", "autoattack.eps": 0.1}
  )
  assert 0 <= found.result["robust"] <= found.result["clean"]
  smoothing = {"sigma": 0.1, "n0": 10, "n": 50, "max": 4, "batch_size": 50}
  found = api.certify(trained, {f"smoothing.{key}": value for key, value in smoothing.items()})
  assert found.result["certify_mlp_sigma0.1"]["num_images"] == 4 and found.figures


def test_an_open_run_is_what_was_trained(trained):
  opened = api.open_run(trained.path)
  x = jnp.full((1, 12, 12, 3), 0.5)
  assert (opened.logits_fn(x) == trained.logits_fn(x)).all()
  assert opened.metrics.keys() == trained.metrics.keys() and not opened.result
  assert not api.open_run(trained.path).figures


@pytest.mark.thorough
def test_a_workdir_of_its_own_is_made(tiny):
  first, second = (api.train(tiny("steps=2,save=2,evaluate=2,log=2")) for _ in range(2))
  assert first.path != second.path and (first.path / "config.json").exists()


def test_the_config_that_is_given_stays_as_it_is(tiny, tmp_path):
  config = tiny("steps=2,save=2,evaluate=2,log=2")
  before = config_lib.to_data(config)
  found = api.train(config, tmp_path / "run", {"seed": 3, "objective": {"name": "standard"}})
  assert config_lib.to_data(config) == before
  assert found.config.seed == 3 and found.config.objective.to_dict() == {"name": "standard"}


@pytest.mark.parametrize(
  "config, changes, message",
  [
    (None, {"sed": 1}, "unknown config key 'sed': did you mean 'seed'"),
    (None, {"batch.size": "many"}, "batch.size='many': expected a value of type int"),
    (None, {"batch.size": 2.5}, "size=2.5: expected a whole number"),
    (None, {"batch": 3}, "'batch' is a block"),
    (None, {"imports": ["no_such_module"]}, "'no_such_module' can't be imported"),
    ("no_such_config", {}, "no config file 'no_such_config'"),
    ({"seed": 1}, {}, "config is a dict: expected a ConfigDict"),
  ],
)
def test_mistakes_are_those_of_the_command_line(tiny, tmp_path, config, changes, message):
  with pytest.raises(ConfigError, match=message):
    api.run(tiny() if config is None else config, tmp_path / "run", changes)
  assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
  with pytest.raises(WorkdirError, match="is no workdir of a run"):
    api.evaluate(tmp_path)
