"""Configs: found, read, changed from the command line, and written down as data."""

import json

import ml_collections
import pytest

from jax_robust import config as config_lib
from jax_robust import overrides, presets
from jax_robust.errors import ConfigError

pytestmark = pytest.mark.fast


@pytest.fixture
def config():
  """Values of every type."""
  return ml_collections.ConfigDict(
    {
      "job": "train",
      "seed": 0,
      "distributed": True,
      "data_dir": "",
      "total_epochs": 400.0,
      "model": {"channels": (16, 32), "bn_group_size": None},
      "attack": {"eps": 8 / 255, "num_steps": 10, "step_sizes": {"0": 0.1}},
      "schedule": {"warmup_epochs": 10.0},
    }
  )


@pytest.mark.parametrize(
  "key, text, value",
  [
    ("seed", "7", 7),
    ("job", "evaluate", "evaluate"),
    ("data_dir", "/a=b", "/a=b"),
    ("distributed", "false", False),
    ("distributed", "True", True),
    ("distributed", "0", False),
    ("attack.eps", "8/255", 8 / 255),
    ("attack.eps", "-1.5e-3", -0.0015),
    ("attack.eps", "1", 1.0),
    ("attack.step_sizes.0", "1/4", 0.25),
    ("model.channels", "4,8,8", (4, 8, 8)),
    ("model.channels", "(4, 8)", (4, 8)),
    ("model.channels", "4", (4,)),
    ("model.channels", "1/2,'a',true,none", (0.5, "a", True, None)),
    ("model.channels", "", ()),
    ("model.bn_group_size", "32", 32),
    ("model.bn_group_size", "none", None),
    ("model.bn_group_size", "wide", "wide"),
  ],
)
def test_a_value_is_read_as_the_type_of_the_present_one(config, key, text, value):
  overrides.override(config, key, text)
  changed = config_lib.flatten(config)[key]
  assert changed == value and type(changed) is type(value)


@pytest.mark.parametrize(
  "key, text, kind",
  [
    ("seed", "1.5", "int"),
    ("seed", "8/2", "int"),
    ("distributed", "yes", "bool"),
    ("attack.eps", "large", "float"),
    ("attack.eps", "1/0", "float"),
    ("attack.eps", "nan", "float"),
    ("attack.eps", "__import__('os')", "float"),
    ("attack.num_steps", "", "int"),
  ],
)
def test_a_value_of_another_type_is_refused(config, key, text, kind):
  before = config.to_dict()
  with pytest.raises(ConfigError) as caught:
    overrides.override(config, key, text)
  assert f"{key}={text!r}: expected a value of type {kind}" in str(caught.value)
  assert config.to_dict() == before


@pytest.mark.parametrize(
  "key, hint",
  [
    ("sed", "'sed': did you mean 'seed'?"),
    ("attack.ep", "'attack.ep': did you mean 'attack.eps'?"),
    ("atack.eps", "'atack': did you mean 'attack'?"),
    ("attack.step_size.0", "'attack.step_size': did you mean 'attack.step_sizes'?"),
    ("total_step", "'total_step': did you mean 'total_epochs'?"),
    ("zzz", "'zzz': expected one of 'attack', 'data_dir', 'distributed'"),
    ("", "'': expected one of"),
    (
      "attack",
      "'attack' is a block: change one of attack.eps, attack.num_steps, attack.step_sizes",
    ),
    ("seed.eps", "'seed' is a value, not a block: it has no 'eps'"),
    ("attack.eps.low", "'attack.eps' is a value, not a block"),
    ("save_steps", "unknown config key 'save_steps'"),
  ],
)
def test_a_key_that_is_not_there_is_named_with_the_near_miss(config, key, hint):
  with pytest.raises(ConfigError) as caught:
    overrides.override(config, key, "1")
  assert hint in str(caught.value)


def test_a_duration_may_be_given_in_another_unit(config):
  overrides.override(config, "total_steps", "1e3")
  overrides.override(config, "schedule.warmup_examples", "512")
  flat = config_lib.flatten(config)
  assert flat["total_steps"] == 1000.0 and "total_epochs" not in flat
  assert flat["schedule.warmup_examples"] == 512.0 and "schedule.warmup_epochs" not in flat
  overrides.override(config, "total_epochs", "1/2")
  assert config.total_epochs == 0.5 and "total_steps" not in config


@pytest.mark.parametrize(
  "block, steps",
  [
    ({"total_steps": 7}, 7),
    ({"total_epochs": 2.5}, 25),
    ({"total_examples": 1000}, 100),
    ({"total_examples": 999}, 99),
    ({"total_epochs": 0.3}, 3),
    ({}, 5),
  ],
)
def test_durations_in_any_unit_are_whole_steps(block, steps):
  assert config_lib.steps(block, "total", batch_size=10, epoch_size=100, default=5) == steps


@pytest.mark.parametrize(
  "block, message",
  [
    ({"total_steps": 1, "total_epochs": 1.0}, "total is given as steps and epochs: keep one"),
    ({"total_steps": -1}, "total_steps=-1: expected a non-negative number"),
    ({"total_steps": float("inf")}, "total_steps=inf"),
  ],
)
def test_a_duration_that_is_none_is_refused(block, message):
  with pytest.raises(ConfigError, match=message):
    config_lib.steps(block, "total", batch_size=10, epoch_size=100)


def test_the_argument_of_a_config_is_checked():
  arg = config_lib.parse_arg("norm=l2,steps=3,smoke", norm="linf", steps=1, eps=0.5)
  assert arg.to_dict() == {"smoke": True, "norm": "l2", "steps": 3, "eps": 0.5}
  assert not config_lib.parse_arg("").smoke
  with pytest.raises(ConfigError, match=r"argument 'nrm': did you mean 'norm'\?"):
    config_lib.parse_arg("nrm=l2", norm="linf")
  with pytest.raises(ConfigError, match=r"steps='many': expected a value of type int"):
    config_lib.parse_arg("steps=many", steps=1)
  with pytest.raises(ConfigError, match=r"argument 'smok': did you mean 'smoke'\?"):
    config_lib.load("quickstart:smok")


def test_a_config_is_found_by_path_and_by_name(repository, monkeypatch, tmp_path):
  expected = config_lib.to_data(config_lib.load(str(repository / "configs" / "quickstart.py")))
  monkeypatch.chdir(tmp_path)  # no checkout around
  for reference in ("quickstart", "quickstart.py", "configs/quickstart.py"):
    assert config_lib.to_data(config_lib.load(reference)) == expected
  assert "quickstart" in config_lib.shipped() and "__init__" not in config_lib.shipped()


@pytest.mark.parametrize(
  "reference, hint",
  [
    ("configs/quickstrat.py", "did you mean 'quickstart'?"),
    ("quikstart", "did you mean 'quickstart'?"),
    ("{folder}/my_confg.py", "did you mean '{folder}/my_config.py'?"),
    ("{folder}", "no config file"),
    ("zzz", "expected one of "),
  ],
)
def test_a_missing_file_is_named_with_the_near_miss(tmp_path, monkeypatch, reference, hint):
  (tmp_path / "my_config.py").write_text("")
  monkeypatch.chdir(tmp_path.parent)
  with pytest.raises(ConfigError) as caught:
    config_lib.load(reference.format(folder=tmp_path))
  assert hint.format(folder=tmp_path) in str(caught.value)


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("a.py", "", "a.py has no function get_config(arg='')"),
    (
      "a.py",
      "def get_config(arg):\n  return 1\n",
      "get_config returned int, expected a ConfigDict",
    ),
    ("a.py", "x = 1\ndef get_config(arg)\n", "a.py, line 2: SyntaxError"),
    ("a.py", "def get_config(arg):\n  a = 1\n  return b\n", "a.py, line 3: NameError: name 'b'"),
    ("a.py", "import nothing_of_that_name\n", "a.py, line 1: ModuleNotFoundError"),
    ("a.json", "{", "a.json is no JSON file"),
    ("a.json", "[1]", "a.json holds a list, expected a config"),
  ],
)
def test_a_file_that_gives_no_config_is_named_with_the_line(tmp_path, name, content, message):
  (tmp_path / name).write_text(content)
  with pytest.raises(ConfigError) as caught:
    config_lib.load(str(tmp_path / name))
  assert message in str(caught.value)


def test_a_json_file_takes_no_argument(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ConfigError, match=r"takes no argument, but 'smoke' is given"):
    config_lib.load(f"{tmp_path / 'config.json'}:smoke")


def test_a_config_survives_json():
  config = presets.base()
  data = config_lib.to_data(config)
  again = config_lib.from_data(json.loads(json.dumps(data)))
  assert config_lib.to_data(again) == data
  assert again.select == config.select == ("robust", "max")
  assert again.attack.eps == config.attack.eps


@pytest.mark.parametrize("value", [lambda x: x, {1, 2}, b"bytes", object()])
def test_a_config_holds_data_only(config, value):
  with config.ignore_type():
    config.job = value
  with pytest.raises(ConfigError, match="a config holds data only"):
    config_lib.to_data(config)


def test_a_key_that_moved_is_named():
  message = r"'evaluation.attack.eps' is now 'evals.robust.attack.eps'"
  with pytest.raises(ConfigError, match=message):
    overrides.override(presets.base(), "evaluation.attack.eps", "8/255")
