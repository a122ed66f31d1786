"""A net with two exits through every job: trained, evaluated, attacked, certified, loaded."""

import functools
import json
import shutil

import numpy as np
import pytest
from rows import mostly_slow

import jax_robust
from jax_robust import jobs, presets
from jax_robust.errors import ConfigError, UserError
from jax_robust.jobs import train
from jax_robust.runs.training import make_training
from jax_robust.train import metrics

EXITS = ("last", "mean", 0, "1", -2)
SAME = {"1": "last", -2: 0}


@pytest.fixture
def make(make_two_exits):
  return functools.partial(make_two_exits, "train")


@pytest.fixture(scope="module")
def run(run_two_exits, tmp_path_factory):
  """A copy of the workdir of a TRADES training."""
  return shutil.copytree(run_two_exits, tmp_path_factory.mktemp("exits") / "run")


@pytest.fixture(scope="module")
def logits(run):
  """The logits of the test images at each exit."""
  config = json.loads((run / "config.json").read_text())
  found = {}
  for exit in EXITS:
    config["evaluation"]["exit"] = exit
    (run / "config.json").write_text(json.dumps(config))
    found[exit] = jax_robust.load(str(run), checkpoint="latest")
  config["evaluation"]["exit"] = "last"
  (run / "config.json").write_text(json.dumps(config))
  return found


def test_training_says_what_the_last_exit_gets_right(run):
  rows = metrics.read_metrics(run / "metrics.jsonl")
  assert {"clean", "robust"} <= {name for row in rows if row["kind"] == "evaluate" for name in row}
  assert json.loads((run / "data.json").read_text())["num_classes"] == 10


def test_load_gives_the_exit_of_the_config(logits):
  x = np.random.default_rng(0).uniform(size=(3, 12, 12, 3)).astype(np.float32)
  found = {exit: np.asarray(logits_fn(x)) for exit, logits_fn in logits.items()}
  assert all(each.shape == (3, 10) for each in found.values())
  for exit, same in SAME.items():
    np.testing.assert_array_equal(found[exit], found[same])
  probs = [np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (found["last"], found[0])]
  np.testing.assert_allclose(np.exp(found["mean"]), np.mean(probs, axis=0), rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("exit", mostly_slow(["mean", 0, "last"], "mean"))
def test_evaluate_and_autoattack_answer_by_the_exit(make, run, exit):
  config = make(evaluation__exit=exit, evaluation__checkpoint="latest")
  config.job = "evaluate"
  result = jobs.run(config, str(run))
  assert result["exit"] == exit and 0 <= result["robust"] <= result["clean"] <= 1
  config.job, config.autoattack.version = "autoattack", "apgd-ce"
  config.autoattack.eps = {"last": 0.1, "mean": 0.11, 0: 0.12}[exit]
  attacked = jobs.run(config, str(run))
  assert attacked["clean"] == result["clean"]


def test_certify_smooths_the_exit(make, run):
  config = make(evaluation__checkpoint="latest", evaluation__exit="mean")
  config.job = "certify"
  config.smoothing.update({"sigma": 0.25, "n": 200, "n0": 10, "stop": 2})
  result = next(iter(jobs.run(config, str(run)).values()))
  assert result["complete"] and result["num_images"] == 2 and result["exit"] == "mean"
  config.evaluation.exit = "last"
  with pytest.raises(UserError, match="exit: 'mean' there, None here"):
    jobs.run(config, str(run))


def test_an_export_says_how_many_classes_there_are(make, run):
  config = make()
  config.job = "export"
  jobs.run(config, str(run))
  assert json.loads((run / "export" / "manifest.json").read_text())["data"] == {"num_classes": 10}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"evaluation__exit": 2}, r"config.evals: exit=2: expected 0 to 1"),
    ({"objective": {"name": "macer", "sigma": 0.5}}, "'macer' needs a net with one exit"),
    ({"attack__name": "cw_l2", "attack__norm": "l2"}, "config.attack: "),
  ],
)
def test_what_two_exits_can_not_do_is_found_before_training(make, changes, message):
  config = make(**changes)
  with pytest.raises(ConfigError, match=message):
    train.make_evaluate(config, make_training(config))


def test_images_of_other_classes_are_refused_on_resume(make, run):
  noted = json.loads((run / "data.json").read_text())
  (run / "data.json").write_text(json.dumps({**noted, "num_classes": 3}))
  with pytest.raises(UserError, match=r"data.json says .*'num_classes': 3.*use the data set"):
    jobs.run(make(), str(run))
  (run / "data.json").write_text(json.dumps(noted))


def test_a_multi_exit_net_trains_adversarially(make, tmp_path):
  config = make(objective={"name": "adversarial"}, attack__loss="cross_entropy")
  config.evals = presets.evals(config.evals.robust.attack.to_dict(), noise=0.25)
  assert jobs.run(config, str(tmp_path))["step"] == 2
