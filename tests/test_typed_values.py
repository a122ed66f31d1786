"""Values and keys as people type them, or as a damaged config.json holds them."""

import json
import pathlib
import time

import jax
import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust import main, overrides, presets
from jax_robust.errors import ConfigError
from jax_robust.runs import check
from jax_robust.train import parallel

pytestmark = pytest.mark.fast

TINY = pathlib.Path(__file__).parent / "tiny_config.py"


def printed(capsys, *argv):
  """The config that a command line amounts to, with flat keys."""
  code = main.main([*argv, "--print-config"])
  captured = capsys.readouterr()
  assert code == 0, captured.err
  return config_lib.flatten(json.loads(captured.out))


def refused(capsys, argv):
  """What a command line is told, which is a sentence and exit code 2, and within a second."""
  began = time.monotonic()
  assert main.main(argv) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith("jax_robust: ") and "Traceback" not in captured.err
  assert len(captured.err) < 3000 and time.monotonic() - began < 5
  return captured.err


NEW_KEYS = [
  ("mnist_smoothing", "model.dtype", "bfloat16", "bfloat16"),
  ("quickstart", "attack.num_restarts", "2", 2),
  ("quickstart", "attack.keep_best", "true", True),
  ("cifar10_adversarial", "attack.momentum", "1/2", 0.5),
  ("quickstart", "evals.robust.attack.num_restarts", "3", 3),
  ("quickstart", "attack.eot", "2", 2),
  ("mnist_smoothing", "objective.maxnorm", "0.5", 0.5),
  ("mnist_smoothing", "objective.warmup", "3", 3.0),
  ("quickstart", "objective.attack_statistics", "running", "running"),
  ("quickstart", "optimizer.decay_batchnorm", "true", True),
  ("quickstart", "augment.cutout", "4", 4),
  ("quickstart", "augment.policy", "trivialaugment", "trivialaugment"),
  ("quickstart", "batch.prefetch", "3", 3),
  ("mnist_smoothing", "schedule.gamma", "0.2", 0.2),
  ("mnist_smoothing", "schedule.warmup_epochs", "2", 2.0),
  ("quickstart", "schedule.milestone_epochs", "1,2.5", [1, 2.5]),
  ("quickstart", "generate.rank", "4", 4),
  ("quickstart", "generate.shrinkage", "0.1", 0.1),
  ("quickstart", "epoch_size", "500", 500),
  ("mnist_smoothing", "attack.name", "pgd", "pgd"),
  ("mnist_smoothing", "generate.method", "gaussian", "gaussian"),
  ("mnist_smoothing", "study.name", "two_dimensional", "two_dimensional"),
  ("fast_training", "objective.penalties", "(0.1, 0)", [0.1, 0]),
  ("fast_training", "objective.penalties", "0", [0]),
]


@pytest.mark.parametrize("name, key, text, value", NEW_KEYS, ids=[each[1] for each in NEW_KEYS])
def test_a_keyword_of_a_blocks_function_can_be_set(capsys, name, key, text, value):
  assert key not in config_lib.flatten(config_lib.load(name))
  found = printed(capsys, f"--config={name}", f"--config.{key}={text}")[key]
  assert found == value and type(found) is type(value)
  there = printed(capsys, f"--config={name}")
  flags = [f"--config.{key}={text}"]
  if key.count(".") and key.split(".")[0] in {each.split(".")[0] for each in there}:
    config = presets.complete(config_lib.load(name))
    known = main.functools.partial(main._known_keys, config)
    overrides.override(config, key, text, known)
    if key not in ("generate.method", "study.name", "attack.name"):
      overrides.override(config, key, "none", known)
      assert config_lib.flatten(config_lib.to_data(config)) == there, flags


REMOVED = [
  ("quickstart", "attack.optimizer", ["attack.optimizer"]),
  ("quickstart", "model.bn_group_size", ["model.bn_group_size"]),
  ("quickstart", "objective.beta", ["objective.beta"]),
  ("quickstart", "attack", ["attack.eps", "attack.name"]),
  ("quickstart", "evals.robust", ["evals.robust.evaluator", "evals.robust.attack.eps"]),
  ("quickstart", "runs", ["runs.standard.objective.name"]),
  ("quickstart", "save_steps", ["save_steps"]),
  ("mnist_smoothing", "model.mean", ["model.mean"]),
]


@pytest.mark.parametrize("name, key, gone", REMOVED, ids=[each[1] for each in REMOVED])
def test_none_removes_a_key(capsys, name, key, gone):
  before = printed(capsys, f"--config={name}")
  after = printed(capsys, f"--config={name}", f"--config.{key}=none")
  assert set(gone) <= before.keys() - after.keys()
  assert all(each == key or each.startswith(f"{key}.") for each in before.keys() - after.keys())


def test_the_order_of_flags_does_not_matter(capsys):
  flags = [
    "--config.attack.confidence=3",
    "--config.attack.name=cw_linf",
    "--config.attack.norm=linf",
  ]
  for argv in (flags, flags[::-1]):
    assert printed(capsys, "--config=quickstart", *argv)["attack.confidence"] == 3.0


def test_none_is_a_value_where_it_is_a_name(capsys):
  flags = ["--config.augment.smoothing_scope=none", "--config.generated.verify=none"]
  found = printed(capsys, "--config=quickstart", *flags)
  assert found["augment.smoothing_scope"] == found["generated.verify"] == "none"


DEEP = 100_000
MISTAKES = [
  (["--config.attack.ep=1"], "'attack.ep': did you mean 'attack.eps'?"),
  (["--config.attack.num_restart=2"], "did you mean 'attack.num_restarts'?"),
  (["--config.model.dtpye=x"], "'model.dtpye': did you mean 'model.dtype'?"),
  (["--config.model.widht=x"], "unknown config key 'model.widht': expected one of 'activation'"),
  (["--config.evals.robst.attack.eps=1"], "'evals.robst': did you mean 'evals.robust'?"),
  (["--config.evals.robust.attack.epz=1"], "did you mean 'evals.robust.attack.eps'?"),
  (["--config.beta=6"], "'beta': did you mean 'objective.beta'?"),
  (["--config.attack.eps=none"], "attack.eps=none: it can't be removed"),
  (["--config.objective.name=none"], "objective.name=none: it can't be removed"),
  (["--config.seed=none"], "seed='none': expected a value of type int"),
  (["--config.schedule=0.5"], "'schedule' is a block: change one of schedule.learning_rate"),
  (["--config.seed.x=1"], "'seed' is a value, not a block"),
  (["--config.seed=1,2"], "seed='1,2': expected a value of type int"),
  (["--config.attack.eps=1,2"], "attack.eps='1,2': expected a value of type float"),
  (["--config.evaluation.eps_list=a,b"], "eps_list=('a', 'b'): expected a list, each of its items"),
  (["--config.evaluation.eps_list=none"], "eps_list=(None,): expected a list"),
  (["--config.evaluation.eps_list=-0.1"], "expected no negative eps"),
  (["--config.evaluation.precision=hihgest"], "config.evaluation.precision"),
  (["--config.model.hidden=a"], "config.model: hidden=('a',): expected a list"),
  (["--config.attack.num_restarts=1.5"], "num_restarts='1.5': expected a value of type int"),
  (["--config.augment.policy=3"], "config.augment: policy=3: expected a text or none"),
  (["--config.batch.size=0"], "config.batch.size=0: expected a whole number, 1 to"),
  (["--config.batch.size=-8"], "config.batch.size=-8"),
  (["--config.evaluation.batch_size=0"], "config.evaluation.batch_size=0"),
  (["--config.evaluation.num_examples=-1"], "config.evaluation.num_examples=-1"),
  (["--config.data.num_heldout=-1"], "config.data.num_heldout=-1"),
  (["--config.seed=-1"], "config.seed=-1: expected a whole number, 0 to 4294967295"),
  (["--config.seed=1099511627776"], "config.seed=1099511627776"),
  (["--config.seed=" + "9" * 5000], "expected a value of type int"),
  (["--config.augment.pad=99999999999999999999"], "pad=99999999999999999999: expected no whole nu"),
  (["--config.augment.pad=99999"], "config.augment: pad=99999: expected at most 32768 pixels"),
  (["--config.model.bn_group_size=1e30"], "bn_group_size=1e+30: expected a whole number or none"),
  (["--config.smoothing.skip=99999999999999999999"], "expected no whole number beyond 2147483647"),
  (["--config.job=certify", "--config.smoothing.n=2000000000"], "expected at most 100000000 draws"),
  (["--config.autoattack.norm=l7"], "norm='l7': expected one of 'l1', 'l2', 'linf'"),
  (["--config.smoothing.radii=0.1,inf", "--config.job=certify"], "radii=inf: expected a finite"),
  (["--config.smoothing.tolerance=inf", "--config.job=certify"], "tolerance=inf: expected a fin"),
  (["--config.distributed=true"], "config.distributed: the processes can't be found"),
  (["--config.model.hidden=0"], "hidden=0: expected a whole number, at least 1"),
  (["--config.ema.warmup_steps=4000000000"], "warmup_steps=4000000000: expected no whole number"),
  (["--config.attack.eps=" + "9" * 400 + "/1"], "expected a value of type float"),
  (["--config.__class__=3"], "unknown config key '__class__'"),
  (["--config.__class__.__init__=3"], "unknown config key '__class__'"),
  (["--config.model.__dict__=3"], "unknown config key 'model.__dict__'"),
  (["--config._fields=3"], "unknown config key '_fields'"),
  (["--config.model.parent=3"], "unknown config key 'model.parent'"),
  (["--config.=3"], "unknown config key ''"),
  (["--config..=3"], "unknown config key ''"),
  (["--config.model.=3"], "unknown config key 'model.'"),
  (["--config." + "a." * 50000 + "=3"], "unknown config key 'a'"),
  (["--config." + "я" * 100000 + "=3"], "unknown config key 'яяя"),
  (["--config.job=" + "x" * 100000], "config.job='xxx"),
  (["--config.job=обучение"], "config.job='обучение': expected one of"),
  (["--config.job=\udcff"], "config.job="),
  (["--" + "x" * 100000 + "=1"], "unknown flag --xxx"),
  (["x" * 100000], "is not a flag"),
  (["--config.total_steps=1", "--config.total_epochs=2"], "are both given: keep one"),
  (["--workdir=y"], "--workdir is given twice, as 'x' and 'y': keep one"),
  (["--config=quickstart"], "--config is given twice"),
  (["--print-config=no"], "--print-config takes no value"),
  (["--config.schedule.name=cosin", "--config.data.name=cifar10", "--config.data_dir=/nowhere"],
   "config.schedule.name='cosin': did you mean 'cosine'?"),
  (["--config.schedule.warmup_steps=99", "--config.data.name=cifar10", "--config.data_dir=/no"],
   "config.schedule: warmup_steps=99"),
  (["--config.schedule.milestone_steps=3", "--config.data.name=/nowhere/at/all"],
   "config.schedule: milestone_steps=[3] with schedule name='cosine'"),
  (["--config.schedule.warmup_epochs=9", "--config.total_epochs=7", "--config.data.name=cifar10"],
   "config.schedule: warmup_steps=9"),
  (["--config.total_steps=0"], "the run has no step"),
  (["--config.save_steps=-1"], "save_steps=-1"),
  (["--config.schedule.learning_rate=none"], "can't be removed"),
]  # fmt: skip


@pytest.mark.parametrize("flags, message", MISTAKES, ids=[each[0][0][:40] for each in MISTAKES])
def test_a_mistake_is_a_sentence(capsys, monkeypatch, tmp_path, flags, message):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(main, "_set_up_logging", lambda: None)
  assert message in refused(capsys, [f"--config={TINY}", "--workdir=x", *flags])
  assert not (tmp_path / "x").exists()


def test_the_same_flag_twice_is_no_mistake(capsys):
  flags = ["--config.seed=3", "--config.seed=3", "--config.distributed=true"]
  found = printed(capsys, f"--config={TINY}", *flags, "--config.distributed=True")
  assert found["seed"] == 3 and found["distributed"] is True


def test_of_a_value_given_twice_the_last_holds_and_it_is_said(capsys):
  argv = [f"--config={TINY}", "--config.seed=1", "--config.seed=2", "--print-config"]
  assert main.main(argv) == 0
  captured = capsys.readouterr()
  assert json.loads(captured.out)["seed"] == 2
  assert captured.err == "jax_robust: --config.seed is given twice: the last, '2', holds\n"


def changed(data, key, value):
  """The JSON of a config with one value changed."""
  *parents, name = key.split(".")
  block = data
  for parent in parents:
    block = block[parent]
  block[name] = value
  return json.dumps(data)


DAMAGE = [
  ("schedule", 0.5, "'schedule' is 0.5: expected a block of keys"),
  ("data", None, "'data' is None: expected a block of keys"),
  ("evaluation", [1], "'evaluation' is (1,): expected a block"),
  ("smoothing", "x", "'smoothing' is 'x': expected a block"),
  ("autoattack", 3, "'autoattack' is 3: expected a block"),
  ("attack", 3, "'attack' is 3: expected a block"),
  ("attack", None, "'attack' is None: expected a block"),
  ("ema", [], "'ema' is (): expected a block"),
  ("evals", [], "'evals' is (): expected a block"),
  ("evals.robust", 1, "'evals.robust' is 1: expected a block"),
  ("evals.robust.attack", 1, "'evals.robust.attack' is 1: expected a block"),
  ("evals.clean", {}, "config.evals.clean.evaluator=''"),
  ("model", {}, "config.model: there is no 'name'"),
  ("objective", {}, "config.objective: there is no 'name'"),
  ("attack", {}, "config.attack: there is no '"),
  ("schedule", {}, "config.schedule: there is no 'learning_rate'"),
  ("batch", {}, "config.batch: there is no "),
  ("seed", {"a": 1}, "config.seed={'a': 1}: expected a whole number"),
  ("seed", [1], "config.seed=(1,): expected a whole number"),
  ("seed", True, "config.seed=True: expected a whole number"),
  ("seed", "1", "config.seed='1': expected a whole number"),
  ("job", 3, "config.job=3"),
  ("job", [3], "config.job=(3,)"),
  ("job", {"a": 1}, "config.job="),
  ("select", 3, "config.select=3: expected a metric"),
  ("select", [["robust"], "max"], "config.select=('robust',)"),
  ("trackers", 1, "config.trackers=1: expected a list, each of its items a text"),
  ("trackers", ["mlfow"], "config.trackers='mlfow': did you mean 'mlflow'"),
  ("tracking", {"mlfow": {}}, "unknown key 'tracking.mlfow': did you mean 'mlflow'"),
  ("tracking", {"mlflow": 3}, "'tracking.mlflow' is 3: expected a block of keys"),
  ("tracking", {"mlflow": {"experimnt": "x"}}, "'tracking.mlflow.experimnt': did you mean 'exper"),
  ("tracking", {"mlflow": {"experiment": 3}}, "tracking.mlflow: experiment=3: expected a text"),
  ("total_steps", "6", "config.total_steps='6': expected a number"),
  ("data.name", 3, "config.data: name=3: expected a text"),
  ("data.num_heldout", 1.5, "config.data: num_heldout=1.5: expected a whole number"),
  ("generated.path", None, "config.generated: path=None: expected a text"),
  ("batch.size", "8", "config.batch: size='8': expected a whole number"),
  ("batch.original_share", [0.5], "config.batch: original_share=(0.5,): expected a number"),
  ("model.name", ["mlp"], "config.model: name=('mlp',): expected a text"),
  ("model.hidden", "8", "config.model: hidden='8': expected a list"),
  ("model.norm", "yes", "config.model: norm='yes': expected a truth value"),
  ("objective.beta", "6", "config.objective: beta='6': expected a number"),
  ("optimizer.momentum", [0.9], "config.optimizer: momentum=(0.9,): expected a number"),
  ("schedule.learning_rate", True, "config.schedule: learning_rate=True: expected a number"),
  ("ema.decay", "x", "config.ema: decay='x': expected a number"),
  ("attack.num_steps", "2", "config.attack: num_steps='2': expected a whole number"),
  ("attack.eps", "x", "config.attack: eps='x': expected a number"),
  ("attack.start", 3, "config.attack: start=3"),
  ("smoothing.logs", [1], "config.smoothing: logs=(1,): expected a list, each of its items a text"),
  ("smoothing.n", "many", "config.smoothing: n='many': expected a whole number"),
  ("evaluation.exit", [1], "config.evaluation: exit=(1,): expected a whole number or text"),
  ("evaluation.eps_list", ["a"], "config.evaluation: eps_list=('a',): expected a list"),
  ("a.b", 1, None),
  ("__class__", 1, "__class__"),
  ("evals.__class__", 1, "__class__"),
  ("_fields", 1, "unknown key '_fields'"),
]  # fmt: skip


@pytest.mark.parametrize(
  "key, value, message", DAMAGE, ids=[f"{each[0]}={each[1]!r}"[:40] for each in DAMAGE]
)
def test_a_damaged_config_is_a_sentence(capsys, monkeypatch, tmp_path, key, value, message):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(main, "_set_up_logging", lambda: None)
  data = config_lib.to_data(presets.complete(config_lib.load(str(TINY))))
  if message is None:
    text, message = json.dumps({**data, key: value}), "does not accept dots"
  else:
    text = changed(data, key, value)
  (tmp_path / "config.json").write_text(text)
  assert message in refused(capsys, ["--config=config.json", "--workdir=x"])
  assert not (tmp_path / "x").exists()


TEXTS = [
  ("[" * DEEP + "]" * DEEP, "nested more than 20 levels deep"),
  ('{"a":' * DEEP + "1" + "}" * DEEP, "nested more than 20 levels deep"),
  ('{"a":' * 200 + "1" + "}" * 200, "nested more than 20 levels deep"),
  ("[" * DEEP, "config.json"),
  ('{"seed": 1, "seed": 2}', "the key 'seed' stands there twice"),
  ('{"evals": {"a": 1, "a": 1}}', "the key 'a' stands there twice"),
  ('{"seed": NaN}', "NaN is no value of a config"),
  ('{"seed": ' + "9" * 10000 + "}", "is no JSON file"),
  ("{}", "config.job=''"),
  ("null", "holds a NoneType"),
  ("", "is no JSON file"),
  ("\x00", "is no JSON file"),
  ("{}{}", "is no JSON file"),
]


@pytest.mark.parametrize("text, message", TEXTS, ids=[each[0][:20] for each in TEXTS])
def test_a_file_that_is_no_config_is_a_sentence(capsys, monkeypatch, tmp_path, text, message):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(main, "_set_up_logging", lambda: None)
  (tmp_path / "config.json").write_text(text)
  assert message in refused(capsys, ["--config=config.json", "--workdir=x"])


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"{\x80}"])
def test_a_file_that_is_no_text_is_a_sentence(capsys, tmp_path, content):
  (tmp_path / "config.json").write_bytes(content)
  argv = [f"--config={tmp_path / 'config.json'}", "--print-config"]
  assert "is no JSON file" in refused(capsys, argv)


def test_a_config_that_ends_the_program_is_a_sentence(capsys, tmp_path):
  (tmp_path / "a.py").write_text("import sys\nsys.exit(0)\n")
  assert "a.py, line 2: SystemExit" in refused(
    capsys, [f"--config={tmp_path / 'a.py'}", "--workdir=x"]
  )


def test_a_schedule_that_some_data_set_fits_is_left_to_the_data(capsys):
  config = presets.complete(config_lib.load(str(TINY)))
  del config["total_steps"]
  config.total_epochs, config.schedule.warmup_steps = 2.0, 500
  check.check(config)
  config.total_epochs = 0.0
  with pytest.raises(ConfigError, match="the run has no step"):
    check.check(config)


def test_typed_keys_are_shared_out_like_all_rows(monkeypatch):
  """As with several processes, where rows go through NumPy."""
  mesh = parallel.data_mesh(8)
  batch = {"image": np.arange(16).reshape(8, 2), "key": jax.random.split(jax.random.key(3), 8)}
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  shared = parallel.shard_batch(batch, mesh)
  whole = parallel.replicate({"key": jax.random.key(4)}, mesh)
  monkeypatch.undo()
  assert (jax.random.key_data(shared["key"]) == jax.random.key_data(batch["key"])).all()
  assert (shared["image"] == batch["image"]).all() and len(shared["key"].devices()) == 8
  assert (jax.random.key_data(whole["key"]) == jax.random.key_data(jax.random.key(4))).all()
