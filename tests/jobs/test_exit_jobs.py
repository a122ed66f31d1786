"""The jobs on nets with several exits: thresholds of these weights, tables, resume, deployment."""

import json
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import jobs, models
from jax_robust.data.sources import array_source
from jax_robust.early_exit import exit_fractions, expected_cost
from jax_robust.errors import ConfigError, RobustnessWarning, UserError
from jax_robust.jobs import exit_attacks
from jax_robust.runs import build, exits, nets, pieces, slowdowns, weights


@pytest.fixture
def make(make_two_exits):
  return make_two_exits


@pytest.fixture
def run(run_two_exits):
  """A trained run on which both jobs were run: look, don't touch."""
  return run_two_exits


def read(folder, name):
  return json.loads((folder / "results" / f"{name}.json").read_text())


def test_early_exit_tells_exits_budgets_and_thresholds(run):
  result = read(run, "early_exit")
  assert [row["exit"] for row in result["exits"]] == [0, 1]
  assert [row["exit"] for row in result["ensembles"]] == ["mean:1"]
  assert [row["budget"] for row in result["budgets"]] == list(range(1, 40))
  deployed = result["deployed"]
  assert deployed["budget"] == 20 and deployed["num_heldout"] == 8
  (same,) = [row for row in result["budgets"] if row["budget"] == 20]
  for key in ("thresholds", "clean", "robust", "clean_exits"):
    assert deployed[key] == same[key]
  shares = deployed["clean_exits"]["fractions"]
  assert deployed["clean_exits"]["expected"]["exits_passed"] == pytest.approx(1 + shares[1])
  for given in ("clean", "attacked"):
    assert deployed["timing"][given]["num_different"] == 0
  assert (run / "results" / "early_exit.png").stat().st_size > 1000


def test_early_exit_tells_what_a_slowdown_costs(run):
  result = read(run, "early_exit")
  assert list(result["slowdown"]) == ["image"]
  for found in result["slowdown"].values():
    assert found["clean"]["accuracy"] == result["deployed"]["clean"]
    assert found["clean"]["exit_fractions"] == result["deployed"]["clean_exits"]["fractions"]
    assert found["unit"] == "exits_passed" and found["eps"] == result["attack"]["eps"]
  image = result["slowdown"]["image"]
  assert image["cost_ratio"] >= 1 and image["efficacy_lost"] >= 0


@pytest.mark.slow
def test_every_kind_of_slowdown_runs(make, run, tmp_path):
  folder = copy(run, tmp_path / "run")
  jobs.run(make("early_exit", early_exit__slowdowns=slowdowns.KINDS), folder)
  found = read(folder, "early_exit")["slowdown"]
  assert tuple(found) == slowdowns.KINDS
  assert found["both"]["attacked"]["accuracy"] <= found["both"]["clean"]["accuracy"]


@pytest.mark.thorough
@pytest.mark.parametrize(
  ("rule", "options", "said"),
  [
    ("common", {"max_drop": 0.5}, {"rule": "common", "max_drop": 0.5, "unit": "exits_passed"}),
    # Eight images certify no bound below one.
    ("risk", {"delta": 0.1}, {"rule": "risk", "delta": 0.1, "alpha": 0.05, "certified": False}),
  ],
)
def test_thresholds_by_other_rules(make, run, tmp_path, rule, options, said):
  changes = {f"early_exit__{key}": value for key, value in options.items()}
  config = make("early_exit", early_exit__rule=rule, **{**changes, "early_exit__slowdowns": ()})
  folder = copy(run, tmp_path / "run")
  jobs.run(config, folder)
  deployed = read(folder, "early_exit")["deployed"]
  assert said.items() <= deployed.items() and deployed["num_heldout"] == 8
  if rule == "risk":
    assert deployed["clean_exits"]["fractions"] == [0.0, 1.0]


def test_exit_attacks_counts_every_point_under_every_rule(run):
  result, other = read(run, "exit_attacks"), read(run, "early_exit")
  assert result["rules"] == ["exit 0", "exit 1", "mean:1", "deployed"]
  assert result["thresholds"] == other["deployed"]["thresholds"] and result["complete"]
  for rule, robust in result["robust"].items():
    assert robust["value"] <= min(each[rule] for each in result["points"].values())
  for row in other["exits"]:
    assert result["clean"][f"exit {row['exit']}"]["value"] == row["clean"]
  assert result["clean"]["deployed"]["value"] == other["deployed"]["clean"]
  page = (run / "results" / "exit_attacks.md").read_text()
  assert "| all of these |" in page and "By what was aimed at" in page


def test_exit_attacks_resumes_and_is_merged(make, run, tmp_path):
  for share in range(2):
    jobs.run(make("exit_attacks", early_exit__shard=f"{share}/2"), copy(run, tmp_path / str(share)))
  half = pieces.find([tmp_path / "0" / "results" / "exit_attacks_0.1_fgsm"])
  assert len(half.owners) == 8
  config = make("merge", early_exit__pieces=(str(tmp_path / "0"), str(tmp_path / "1")))
  jobs.run(config, tmp_path / "all")
  merged, whole = read(tmp_path / "all", "exit_attacks"), read(run, "exit_attacks")
  assert merged["points"] == whole["points"] and merged["num_examples"] == 16
  with pytest.raises(ConfigError, match="is one of early_exit.pieces: once merged there"):
    jobs.run(config, tmp_path / "0")


def broken_net(*_):
  """Two exits, the first without finite logits but for images of whole bytes."""

  def outputs_fn(x):
    flat = x.reshape(len(x), -1)
    is_moved = jnp.any(jnp.abs(255 * flat - jnp.round(255 * flat)) > 0.01, axis=1, keepdims=True)
    return jnp.where(is_moved, jnp.nan, flat[:, :3]), flat[:, :3]

  return outputs_fn


LOST = array_source(np.arange(30, dtype=np.uint8).reshape(5, 3, 2, 1) * 8, np.array([2] * 5))


def test_points_that_are_lost_are_no_attack_and_counted():
  """For all exits: an image that passes by the broken one has its answer behind it."""
  predict = lambda x: broken_net()(x)  # noqa: E731
  push = lambda x, labels, ids: x + np.where(ids == 3, 0, 0.3 / 255)[:, None, None, None]  # noqa: E731
  with pytest.warns(RobustnessWarning, match="at 1 points that were tried, of images 4"):
    found = exits.score(predict, LOST, batch_size=3, change=push)
  clean = exits.score(predict, LOST, batch_size=3)
  assert found.num_lost == 4 and clean.num_lost == 0
  np.testing.assert_array_equal(found.outputs, clean.outputs)


def test_attacks_on_exits_count_lost_points_as_the_image(make, monkeypatch):
  monkeypatch.setattr(nets, "outputs_of_weights", lambda *_: broken_net)
  config = make("exit_attacks", early_exit__eps=0.1)
  options = exit_attacks.read_options(config)._replace(
    attacks=("fgsm",), aims=("average",), thresholds=(0.9,)
  )
  subject = types.SimpleNamespace(net=None, variables=(), source=LOST)
  with pytest.warns(RobustnessWarning, match="fgsm: logits were NaN or infinite at 5 points"):
    found = exit_attacks.make_run(config, options, subject)("fgsm", np.arange(5))
  assert found["num_lost"].tolist() == [1] * 5
  assert found["clean"].any() and (found["correct"][:, 0] == found["clean"]).all()


def copy(run, target):
  """A copy of the run without its results."""
  shutil.copytree(run, target)
  shutil.rmtree(target / "results")
  return target


def test_the_deployed_run_answers_as_the_job_says(run):
  x = np.random.default_rng(0).uniform(size=(9, 12, 12, 3)).astype(np.float32)
  found = exits.load_deployed(str(run), batch_size=8)(x)
  assert found.logits.shape == (9, 10) and exit_fractions(found.taken, 2).sum() == 1


def test_thresholds_are_of_these_weights(make, run, tmp_path):
  file = run / "results" / "early_exit.json"
  config = make(
    "early_exit", early_exit__thresholds=str(file), data__num_heldout=8, early_exit__slowdowns=()
  )
  result = jobs.run(config, copy(run, tmp_path / "again"))
  assert result["clean"] == read(run, "early_exit")["deployed"]["clean"]
  noted = json.loads(file.read_text())
  cases = {
    "other weights": ({"weights": {"sha256": "0" * 64}}, "chosen for weights of sha256 000000"),
    "other exits": ({"deployed": {"thresholds": [0.5, 0.5]}}, "has 2 entries, and the net has 2"),
    "no thresholds": ({"deployed": {}}, "is no results/early_exit.json"),
    "edited": (
      {"deployed": {**noted["deployed"], "thresholds": [0.5]}},
      "are not those that were written",
    ),
  }
  for changes, said in cases.values():
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps({**noted, **changes}))
    with pytest.raises(ConfigError, match=said):
      exits.read_thresholds(str(changed), noted["weights"]["sha256"], 2)
  assert exits.read_thresholds(str(file), noted["weights"]["sha256"], 2).shape == (1,)
  with pytest.raises(ConfigError, match="No such file"):
    exits.read_thresholds(str(tmp_path / "none.json"), "", 2)
  changed.write_text("[" * 10**5)
  with pytest.raises(ConfigError, match="is no results/early_exit.json"):
    exits.read_thresholds(str(changed), "", 2)


@pytest.mark.parametrize("job", ["early_exit", "exit_attacks"])
@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (
      {"data__num_heldout": 0, "evaluation__checkpoint": "latest"},
      "chosen by held-out images, .* Train with --config.data.num_heldout=5000",
    ),
    ({"early_exit__budget": 0.0}, "budget=0.0: expected p > 0"),
  ],
)
def test_what_both_jobs_need_is_said_before_anything_is_opened(make, tmp_path, job, changes, said):
  with pytest.raises(ConfigError, match=said):
    jobs.run(make(job, init_from="made", **changes), tmp_path / "new")
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  ("job", "changes", "said"),
  [
    ("early_exit", {"early_exit__aim": "men"}, "aim='men': did you mean 'mean'"),
    ("early_exit", {"early_exit__rule": "risc"}, "rule='risc': did you mean 'risk'"),
    ("early_exit", {"early_exit__delta": 2.0}, "delta=2.0"),
    ("early_exit", {"early_exit__slowdowns": ("imge",)}, "did you mean 'image'"),
    ("early_exit", {"early_exit__slowdowns": ("image", "image")}, "expected each once"),
    ("early_exit", {"early_exit__eps": 0.2}, "is for the job exit_attacks.*has evals.robust.attac"),
    ("early_exit", {"early_exit__aim": "2"}, "early_exit.aim=2: expected 0 to 1, the exits of the"),
    ("exit_attacks", {"early_exit__attacks": ("sqare",)}, "did you mean 'square'"),
    ("exit_attacks", {"early_exit__eps": -0.1}, "eps=-0.1"),
    ("exit_attacks", {"early_exit__chunk_size": 0}, "chunk_size=0"),
    ("exit_attacks", {"early_exit__shard": "2/2"}, "expected I/N"),
  ],
)
def test_what_a_block_can_not_hold_is_refused(make, tmp_path, job, changes, said):
  with pytest.raises(ConfigError, match=said):
    jobs.run(make(job, init_from="made", **changes), tmp_path / "new")


def test_macs_of_one_exit_alone_are_no_cost_of_a_rule():
  """Those of a small net fall: its first exit is wider than all that the last one needs."""
  options = {"growth_factors": (1, 2), "bottleneck_factors": (1, 2), "channels": 2, "growth": 2}
  net = models.create("msdnet", num_classes=10, num_blocks=2, base=1, step=1, **options)
  subject = types.SimpleNamespace(net=net, source=types.SimpleNamespace(image_shape=(32, 32, 3)))
  costs = exits.costs_of(subject, 2)
  assert costs["macs"][0] > costs["macs"][1]
  for values in exits.costs_passed(costs).values():
    assert expected_cost([0.5, 0.5], values) == np.mean(values)


def test_a_net_with_one_exit_is_refused(tiny, tmp_path):
  config = tiny("steps=2", init_from="made")
  for job in ("early_exit", "exit_attacks"):
    config.job = job
    with pytest.raises(ConfigError, match="model.name='mlp'.*1 exit: early exits need at least 2"):
      jobs.run(config, tmp_path / job)


def test_images_of_another_shape_are_warned_of_or_refused(make, run):
  source = array_source(np.zeros((2, 8, 8, 3), np.uint8), [0, 1], num_classes=10)
  with (
    pytest.warns(RobustnessWarning, match=r"images of shape \[12, 12, 3\], those of .*\[8, 8, 3\]"),
    pytest.raises(UserError, match="do not fit this model"),
  ):
    nets.load_net(make(), run, source)
  net = models.create("msdnet", num_classes=10)
  with pytest.raises(ConfigError, match="config.model: images of 8 pixels a side are too small"):
    weights.shapes(net, source.image_shape)


def test_a_named_set_is_brought_to_a_size(tiny):
  assert build.load_split(tiny(data__image_size=8), "test").image_shape == (8, 8, 3)


def test_thresholds_are_not_chosen_by_images_that_were_trained_on(make, run, tmp_path):
  config = make("early_exit", init_from=str(run), data__num_heldout=7)
  with pytest.raises(ConfigError, match="held out other images than data.num_heldout of this"):
    jobs.run(config, tmp_path / "new")


def test_a_net_without_blocks_is_not_deployed():
  net = models.create("mlp", num_classes=3, hidden=(4,))
  with pytest.raises(ConfigError, match=r"has no run_block\(state, number\)"):
    nets.make_run_block(net, {}, {})
