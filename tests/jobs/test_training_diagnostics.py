"""Diagnostics of a training of two exits: rows, checkpoints, pictures; mistakes in a config."""

import json

import numpy as np
import pytest

from jax_robust import jobs, overrides, presets
from jax_robust.errors import ConfigError
from jax_robust.jobs import train
from jax_robust.runs import check, overfitting
from jax_robust.runs.features import make_blocks_fn
from jax_robust.runs.training import make_training
from jax_robust.train import checkpoint, metrics

FALLS = {2: 0.5, 4: 0.1, 6: 0.1}


@pytest.fixture(scope="module")
def make(tiny, known):
  """A config of a net with two exits, with an evaluation of each, and the detector."""

  def config(**changes):
    made = tiny("steps=6,save=2,evaluate=2", model={"name": "two_exits"})
    attack = made.evals.robust.attack.to_dict()
    made.objective, made.generated.path = {"name": "adversarial"}, ""
    made.attack = {**attack, "loss": "cross_entropy"}
    made.batch.update({"original_share": 1.0, "emulated_workers": 0})
    del made.evals["robust"]
    made.evals.update(presets.exit_evals(attack))
    made.select = ("robust_exits/1", "max")
    made.overfitting = presets.overfitting(num_images=4, attack=attack)
    for key, value in changes.items():
      overrides.override(made, key.replace("__", "."), value, known_keys(made))
    return made

  return config


def known_keys(config):
  from jax_robust.runs import keys

  return lambda place: keys.known(config, place)


def test_a_training_measures_every_exit_and_draws_it(make, tmp_path):
  config = make()
  result = jobs.run(config, str(tmp_path))
  assert result["best"]["metric"] == "robust_exits/1"
  assert result["overfitting"] == {"alarms": [], "accepted": 6, "stopped": False}
  rows = [
    row for row in metrics.read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "evaluate"
  ]
  exits = {f"{name}/{k}" for name in ("clean_exits", "robust_exits") for k in (0, 1)}
  exits |= {f"overfitting/{name}/{k}" for name in ("several", "single") for k in (0, 1)}
  assert all(exits <= set(row) for row in rows) and len(rows) == 3
  assert all(row["clean_exits/1"] == row["clean"] for row in rows)  # the last exit answers
  config.job = "evaluate"
  result = jobs.run(config, str(tmp_path))
  assert {"clean_exits/0", "robust_exits/1", "robust_exits/1_interval"} <= set(result)
  assert result["clean_exits/1"] == result["clean"]
  config.job = "curves"
  assert jobs.run(config, str(tmp_path))["alarms"] == {tmp_path.name: []}
  assert (tmp_path / "results" / "curves.png").stat().st_size > 10_000


@pytest.mark.thorough
def test_a_stop_keeps_the_weights_of_the_last_accepted_evaluation(make, tmp_path, monkeypatch):
  measure = lambda *_: lambda state: {"overfitting/several/0": FALLS[int(state.step)]}  # noqa: E731
  monkeypatch.setattr(overfitting, "make_measure", measure)
  config = make(overfitting__stop="true", evaluation__checkpoint="accepted")
  result = jobs.run(config, str(tmp_path))
  told = json.loads((tmp_path / "results" / "train.json").read_text())["overfitting"]
  assert result["step"] == 4 and told == result["overfitting"]
  assert told["stopped"] and told["accepted"] == 2
  found = [(each["step"], each["exit"], each["rule"]) for each in told["alarms"]]
  assert found == [(4, 0, "drop"), (4, 0, "lost")]
  alarm = [
    row for row in metrics.read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "alarm"
  ]
  assert alarm == [{"step": 4, "kind": "alarm", "drop/0": 0.4, "lost/0": 0.4}]
  assert jobs.run(config, str(tmp_path)) == result
  config.job = "evaluate"
  weights = jobs.run(config, str(tmp_path))["weights"]
  assert (weights["step"], weights["checkpoint"]) == (2, checkpoint.ACCEPTED)


MISTAKES = [
  ({"overfitting__atack__eps": "1"}, "overfitting.atack': did you mean 'overfitting.attack'"),
  ({"overfitting__drp": "1"}, "overfitting.drp': did you mean 'overfitting.drop'"),
  ({"overfitting__attack__eps": "none"}, "attack.eps=none"),
  ({"overfitting__drop": "20"}, r"config.overfitting: drop=20.0: expected a difference"),
  ({"overfitting__lost": "20"}, r"config.overfitting: lost=20.0: expected a difference"),
  ({"overfitting__aim": "avrage"}, "config.overfitting: aim='avrage': did you mean 'average'"),
  ({"overfitting__num_images": "-1"}, "num_images=-1"),
  ({"overfitting__stop": "true", "evaluation__checkpoint": "latest"}, "'accepted', or 'best'"),
  ({"evals__robust_exits__aim": "own_"}, "evals.robust_exits: aim='own_': did you mean 'own'"),
  ({"evals__robust_exits__evaluator": "attacked_exit"}, "did you mean 'attacked_exits'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_mistake_is_named(make, changes, message):
  with pytest.raises(ConfigError, match=message):
    check.check(make(**changes))


def test_a_detector_without_an_attack_is_refused(make):
  config = make()
  del config.overfitting["attack"]
  with pytest.raises(ConfigError, match=r"config.overfitting.attack needs name, norm and eps"):
    check.check(config)
  del config.overfitting
  check.check(config)


@pytest.mark.parametrize(
  ("select", "message"),
  [("robust_exits/2", "did you mean 'robust_exits/"), ("clear/0", "select='clear/0'")],
)
def test_select_names_what_is_measured(make, select, message):
  config = make()
  config.select = (select, "max")
  with pytest.raises(ConfigError, match=message):
    check.check(config)
    train.make_evaluate(config, make_training(config))


@pytest.mark.parametrize(
  ("entry", "message"),
  [
    ({"aim": 2}, r"config.evals: aim=2: expected .*0 to 1"),
    ({"evaluator": "feature_distance"}, "TwoExits has no blocks"),
  ],
)
def test_what_the_net_can_not_do_is_found_before_training(make, entry, message):
  config = make()
  attack = config.evals.robust_exits.attack.to_dict()
  config.evals = {"x": {"evaluator": "attacked_exits", "attack": attack, **entry}}
  config.select, training = ("x/0", "max"), make_training(config)
  with pytest.raises(ConfigError, match=message):
    train.make_evaluate(config, training)


def test_features_of_blocks_are_those_that_exits_read():
  class Net:
    num_blocks = 2
    run_block = None  # `apply` is asked for it by its name

    def apply(self, variables, state, number, *, method):
      assert method == "run_block"
      x = state if number == 0 else state[1]
      return {0: x, 1: variables["params"] * x}, x.sum((1, 2))

  features, logits = make_blocks_fn(Net(), 2.0, {})(np.ones((1, 2, 2, 3)))
  assert [float(each[0, 0, 0, 0]) for each in features] == [2.0, 4.0]
  assert [float(each[0, 0]) for each in logits] == [4.0, 8.0]
