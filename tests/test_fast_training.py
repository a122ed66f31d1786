"""The config of all rivals: what each method is given, and which arguments do not fit together."""

import pytest

from jax_robust import config as config_lib
from jax_robust.errors import ConfigError
from jax_robust.runs import training

pytestmark = pytest.mark.fast

METHODS = (
  "standard", "pgd_7", "pgd_10", "trades", "free", "fast_fgsm", "n_fgsm", "grad_align",
  "multi_exit",
)  # fmt: skip


class Cifar:
  """What a schedule asks of a training set."""

  num_examples = 50_000


def load(arg):
  return config_lib.load(f"fast_training:{arg}")


def test_fast_fgsm_stops_before_it_overfits_and_the_others_only_look():
  for method in METHODS:
    config = load(f"method={method},eps=4/255")
    stops = method == "fast_fgsm"
    assert (config.overfitting.stop, config.overfitting.drop) == (stops, 0.2)
    assert config.evaluation.checkpoint == ("accepted" if stops else "latest")
    assert config.overfitting.attack.step_size == pytest.approx(1 / 255)
  assert load("method=fast_fgsm").overfitting.attack.num_steps == 5


def test_every_exit_is_measured_where_there_are_several():
  assert {"clean_exits", "robust_exits"} <= set(load("").evals)
  for arg in ("exits=last", "net=small", "net=preact_resnet18"):
    assert set(load(arg).evals) == {"clean", "robust"}


def test_the_common_recipe_makes_equally_many_optimiser_steps():
  same = ("data", "batch", "augment", "model", "optimizer", "ema", "evals")
  first = config_lib.to_data(load("method=multi_exit,recipe=common,epochs=16"))
  for method in METHODS:
    config = load(f"method={method},recipe=common,epochs=16")
    data = config_lib.to_data(config)
    assert {name: data[name] for name in same} == {name: first[name] for name in same}
    updates = training.training_method(config).updates_per_batch()
    assert config.total_epochs * updates == 16
    assert config.schedule.milestone_epochs == (8 / updates, 12 / updates)


@pytest.mark.parametrize(
  ("method", "epochs", "rate", "batch", "decay"),
  [
    ("standard", 300, 0.1, 64, 1e-4),
    ("pgd_7", 15, 0.2, 128, 5e-4),
    ("pgd_10", 204.8, 0.1, 128, 2e-4),
    ("trades", 76, 0.1, 128, 2e-4),
    ("free", 10, 0.04, 128, 5e-4),
    ("fast_fgsm", 15, 0.2, 128, 5e-4),
    ("n_fgsm", 30, 0.2, 128, 5e-4),
    ("grad_align", 30, 0.3, 128, 5e-4),
    ("multi_exit", 100, 0.1, 64, 1e-4),
  ],
)
def test_own_recipes(repository, method, epochs, rate, batch, decay):
  config = load(f"method={method}")
  assert (config.total_epochs, config.schedule.learning_rate) == (epochs, rate)
  assert (config.batch.size, config.optimizer.weight_decay) == (batch, decay)
  row = f"| {method} | {'80 in 10' if method == 'free' else epochs} | {rate:g}"
  text = (repository / "configs" / "fast_training.py").read_text()
  assert row.replace(" 0.", " .") in text, "the table of the docstring says something else"


def test_attacks_have_the_radius_and_steps_in_proportion():
  for method in METHODS:
    config = load(f"method={method},eps=4/255")
    assert config.evals.robust.attack.eps == 4 / 255
    for block in (config.get("attack", {}), config.objective):
      assert block.get("eps", 4 / 255) == 4 / 255
  assert load("method=pgd_7,eps=4/255").attack.step_size == pytest.approx(1 / 255)
  assert load("method=pgd_10").attack.step_size == pytest.approx(2 / 255)
  assert load("data=svhn,method=grad_align").objective.lbd == pytest.approx(2.5)
  assert "attack" not in load("method=standard") and "attack" not in load("method=free")
  assert load("method=trades").attack.start == "normal"


@pytest.mark.parametrize(("blocks", "penalty"), [(0, 0.15), (2, 0.1), (9, 0.15)])
def test_the_last_exit_alone_keeps_its_lambda(blocks, penalty):
  config = load(f"exits=last,blocks={blocks}")
  assert config.objective.penalties == (penalty,) and config.model.exits == "last"


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("method=fast_fgms", r"method='fast_fgms': did you mean 'fast_fgsm'\?"),
    ("net=msdent", r"net='msdent': did you mean 'msdnet'\?"),
    ("recipe=commn", r"recipe='commn': did you mean 'common'\?"),
    ("data=cifar", r"data='cifar': did you mean 'cifar10'\?"),
    ("exits=first", "exits='first': expected one of 'all', 'last'"),
    ("exits=last,net=small", "exits='last': net='small' has one exit"),
    ("start=zero,method=pgd_7", "start='zero': expected 'random' with method='pgd_7'"),
    ("epochs=3", "epochs=3 is an argument of recipe=common"),
    ("eps=-1/255,method=free,smoke", "eps=-0.0039.*: expected a finite radius"),
    ("eps=-1/255,method=grad_align,smoke", "eps=-0.0039.*: expected a finite radius"),
    ("eps=-1/255,method=multi_exit,smoke", "eps=-0.0039.*: expected a finite radius"),
  ],
)
def test_what_is_refused(arg, message):
  with pytest.raises(ConfigError, match=message):
    config = load(arg)
    training.training_method(config)
