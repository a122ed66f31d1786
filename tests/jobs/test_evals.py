"""`config.evals`: what a training measures, and what a change of the noise reaches."""

import json

import pytest

from jax_robust import config as config_lib
from jax_robust import jobs, main, presets
from jax_robust.runs import evaluation, workdir
from jax_robust.runs.training import make_training
from jax_robust.train import metrics


def test_smoothing_carries_no_attack():
  config = config_lib.load("mnist_smoothing:sigma=1.0")
  assert "attack" not in config and set(config.evals) == {"clean", "noisy"}
  assert evaluation.attack_setting(config) is None


def test_a_changed_sigma_of_training_is_that_of_selection_and_certification(capsys):
  argv = ["--config=mnist_smoothing:sigma=1.0", "--config.objective.sigma=.25", "--print-config"]
  assert main.main(argv) == 0
  config = config_lib.from_data(json.loads(capsys.readouterr().out))
  assert config.objective.sigma == evaluation.noise_level(config) == 0.25
  assert evaluation.make_evaluators(config)["noisy"].keywords["sigma"] == 0.25


def test_a_sigma_of_its_own_stays():
  config = config_lib.load("mnist_smoothing:sigma=1.0")
  config.evals.noisy.sigma = 0.5
  assert evaluation.make_evaluators(config)["noisy"].keywords["sigma"] == 0.5


def test_the_names_are_the_config_s_and_select_takes_one_of_them(tiny, tmp_path):
  config = tiny("steps=2,save=2,evaluate=2")
  weak = config.evals.robust.attack.to_dict()
  config.evals = {
    "accuracy": {"evaluator": "clean"},
    "strong": {"evaluator": "attacked", "attack": {**weak, "num_steps": 3}},
    "weak": {"evaluator": "attacked", "attack": {**weak, "eps": 0.01}},
  }
  config.select = ("weak", "max")
  result = jobs.run(config, str(tmp_path))
  assert result["best"]["metric"] == "weak"
  rows = [row for row in metrics.read_metrics(tmp_path / "metrics.jsonl") if "weak" in row]
  assert rows and all({"accuracy", "strong", "weak"} <= set(row) for row in rows)
  assert evaluation.attack_setting(config).name == "weak"
  assert evaluation.autoattack_ball(config) == ("linf", 0.01)


def test_autoattack_without_an_attack_in_evals_asks_for_a_ball():
  config = config_lib.load("mnist_smoothing:sigma=1.0")
  with pytest.raises(ValueError, match="set --config.autoattack.norm and .eps"):
    evaluation.autoattack_ball(config)
  config.autoattack.update({"norm": "l2", "eps": 0.5})
  assert evaluation.autoattack_ball(config) == ("l2", 0.5)


def test_a_workdir_of_an_earlier_version_is_read_and_resumed(tiny, tmp_path):
  """Its config names the attack of the evaluation where there are `evals` now."""
  config = tiny("steps=4,save=2,evaluate=2")
  jobs.run(config, str(tmp_path))
  data = json.loads((tmp_path / "config.json").read_text())
  data["evaluation"]["attack"] = data.pop("evals")["robust"]["attack"]
  del data["evaluation"]["exit"], data["autoattack"]["norm"], data["autoattack"]["eps"]
  (tmp_path / "config.json").write_text(json.dumps(data))
  (tmp_path / "data.json").unlink()
  read = config_lib.from_data(workdir.read_config(tmp_path))
  assert read.evals == presets.complete(tiny("steps=4,save=2,evaluate=2")).evals
  assert read.evals == config.evals and read.evaluation.exit == "last"
  longer = tiny("steps=4,save=2,evaluate=2")
  assert jobs.run(longer, str(tmp_path))["step"] == 4


def test_a_training_is_traced_with_its_own_net(tiny):
  """An error of the net itself shows before anything is compiled."""
  config = tiny(model={"name": "lenet", "pad_to": 6})
  with pytest.raises(ValueError, match="pad_to=6"):
    make_training(config)
