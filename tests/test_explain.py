"""`--explain`: every key of every config means something, and a misspelt one is named."""

import pytest

from jax_robust import config as config_lib
from jax_robust import main, presets
from jax_robust.errors import ConfigError
from jax_robust.runs import explain, key_docs, keys

pytestmark = pytest.mark.fast

CONFIGS = (
  *config_lib.shipped(), "mnist_smoothing:method=smoothmix", "mnist_smoothing:method=macer",
  "mnist_smoothing:method=consistency", "fast_training:method=free",
  "fast_training:method=grad_align",
)  # fmt: skip


@pytest.fixture(scope="module")
def config():
  """TRADES with generated data."""
  return presets.complete(config_lib.load("cifar10_trades_ddpm"))


@pytest.mark.parametrize("reference", CONFIGS)
def test_every_key_means_something(reference):
  config = presets.complete(config_lib.load(reference))
  every = explain.every_key(config)
  assert config_lib.flatten(config).keys() <= every.keys()
  assert [key for key in every if not explain.meaning(config, key)] == []


def test_no_meaning_is_told_of_a_key_that_is_none(config):
  """What `key_docs` tells is of keys that some config may have."""
  every = set(explain.every_key(config))
  every |= {"schedule.learning_rate", "overfitting.num_images", "epoch_size", "data.draw"}
  assert set(key_docs.PLAIN) <= every
  assert {f"{stem}_steps" for stem in key_docs.DURATIONS} <= set(keys.DURATIONS)


@pytest.mark.parametrize(
  "key, wanted",
  [
    ("seed", ("seed = 0   (whole number)", "of initial weights, the order of data")),
    ("attack.eps", ("attack.eps = 0.0313", "(number)", "radius", "attacks.balls.linf_ball")),
    ("attack.num_restarts", ("num_restarts = 1", "not in this config", "attacks.pgd.pgd")),
    ("attack.step_sizes.5", ("step_sizes.5 = 0.01",)),
    ("model.bn_momentum", ("not in this config", "jax_robust.models.classifier.Classifier")),
    ("schedule.warmup_epochs", ("10.0", "(here in epochs)")),
    ("total_epochs", ("total_epochs = 400.0", "how long to train, in epochs")),
    ("evals.robust.attack.loss", ("margin", "losses.LOSSES")),
    ("objective.beta", ("beta = 6.0", "jax_robust.objectives.trades.trades")),
    ("sweep.grid", ("KEY=VALUE,VALUE",)),
  ],
)
def test_a_key_is_told_with_its_value_type_and_source(config, key, wanted):
  text = explain.explain(config, key)
  for part in wanted:
    assert part in text, text


def test_a_block_is_told_by_its_keys_a_line_each(config):
  *lines, blank, hint = explain.explain(config, "ema").split("\n")
  assert [line.split(" = ")[0] for line in lines] == ["ema.decay", "ema.ramp", "ema.warmup_steps"]
  assert not blank and "--explain=KEY" in hint
  assert all(len(line) <= 100 for line in explain.explain(config).split("\n"))


@pytest.mark.parametrize(
  "key, near",
  [("atack", "'attack'"), ("attack.ep", "'attack.eps'"), ("sed", "'seed'"), ("x" * 999, "")],
)
def test_a_key_that_is_none_is_refused_with_the_near_miss(config, key, near):
  with pytest.raises(ConfigError, match=f"unknown config key .*{near}") as caught:
    explain.explain(config, key)
  assert len(str(caught.value)) < 4000


def test_the_command_line_explains_what_is_changed_too(capsys):
  argv = ["--config=quickstart", "--config.attack.num_restarts=3", "--explain=config.attack"]
  assert main.main(argv) == 0
  assert "attack.num_restarts = 3 " in capsys.readouterr().out
  assert main.main(["--config=quickstart", "--explain"]) == 0
  assert "optimizer.weight_decay = 0.0005" in capsys.readouterr().out
  assert main.main(["--config=quickstart", "--explain=attack.epz"]) == 2
  assert "did you mean 'attack.eps'" in capsys.readouterr().err
