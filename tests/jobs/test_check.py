"""A mistake anywhere in a config is found before data are read, with the near miss."""

import functools
import json

import pytest

from jax_robust import config as config_lib
from jax_robust import jobs, presets
from jax_robust.errors import ConfigError, UserError
from jax_robust.jobs import train
from jax_robust.runs import blocks, build, check, devices
from jax_robust.runs.training import make_optimizer, make_training


def test_the_configs_that_ship_pass():
  for name in config_lib.shipped():
    check.check(config_lib.load(name))


MISTAKES = [
  ({"objective__name": "tradse"}, r"config.objective.name='tradse': did you mean 'trades'\?"),
  ({"objective__betta": 6.0}, r"'objective.betta': did you mean 'beta'\?"),
  ({"model__name": "small_cn"}, r"config.model: name='small_cn'.*'small_cnn'"),
  ({"model__hiden": (3,)}, r"config.model: unknown key 'mlp.hiden': did you mean 'hidden'"),
  ({"model__activation": "swiss"}, r"config.model: activation='swiss'.*'swish'"),
  ({"model__dtype": "float23"}, r"config.model: .*float23"),
  ({"attack__name": "pdg"}, r"config.attack: name='pdg': did you mean 'pgd'"),
  ({"attack__norm": "lnf"}, r"config.attack: norm='lnf': did you mean 'linf'"),
  ({"attack__loss": "kl_divergance"}, r"config.attack: loss='kl_divergance'.*'kl_divergence'"),
  ({"attack__num_stps": 3}, r"config.attack: .*'num_stps': did you mean 'num_steps'"),
  ({"attack__start": "unifrom"}, r"config.attack: start='unifrom'.*'uniform'"),
  ({"attack__eps": "large"}, r"config.attack: eps='large': expected a number"),
  ({"attack__eps": 8}, r"config.attack.eps: eps=8.*: did you mean 8/255 = 0.03"),
  ({"evals__robust__attack__eps": 8.0}, r"evals.robust.attack.eps: eps=8.*: did you mean 8/255"),
  ({"evaluation__eps_list": (0.1, 4)}, r"evaluation.eps_list: eps=4: .*: did you mean 4/255"),
  ({"autoattack__eps": 8.0}, r"config.autoattack.eps: eps=8.*: did you mean 8/255"),
  ({"attack__eps": -0.1}, r"config.attack.eps: eps=-0.1: expected a finite radius"),
  ({"attack__step_size": float("nan")}, r"config.attack: step_size=nan: expected a number or none"),
  ({"smoothing__sigma": 64.0}, r"config.smoothing: sigma=64.0: .*: did you mean 64/255 = 0.25"),
  ({"smoothing__sigma_list": (0.5, 64)}, r"config.smoothing: sigma=64: .*: did you mean 64/255"),
  ({"evals__robust__attack__name": "pdg"}, r"config.evals.robust.attack: name='pdg'.*'pgd'"),
  ({"evals__robust__attack__loss": "magin"}, r"config.evals.robust.attack: loss='magin'.*'margin'"),
  ({"evaluation__num_exampels": 3}, r"'evaluation.num_exampels': did you mean 'num_examples'\?"),
  ({"evaluation__checkpoint": "lates"}, r"config.evaluation.checkpoint='lates'.*'latest'"),
  ({"data__name": "cifer10"}, r"config.data.name='cifer10': did you mean 'cifar10'\?"),
  ({"data__num_held_out": 3}, r"'data.num_held_out': did you mean 'num_heldout'\?"),
  ({"augment__labelsmoothing": 0.1}, r"'augment.labelsmoothing': did you mean 'label_smoothing'\?"),
  ({"augment__policy": "randaug"}, r"config.augment: .*'randaugment'"),
  ({"augment__pad": -1}, r"config.augment: pad=-1"),
  ({"ema__deacy": 0.9}, r"'ema.deacy': did you mean 'decay'\?"),
  ({"parallel": "pmpa"}, r"config.parallel='pmpa': did you mean 'pmap'\?"),
  ({"batch__backend": "residnet"}, r"config.batch.backend='residnet': did you mean 'resident'\?"),
  ({"select": ("robst", "max")}, r"config.select='robst': did you mean 'robust'\?"),
  ({"select": ("clean", "mix")}, r"config.select='mix': did you mean 'm(ax|in)'\?"),
  ({"select": "clean"}, r"config.select='clean': expected a metric and 'max' or 'min'"),
  ({"evalation": {}}, r"'evalation': did you mean 'evaluation'\?"),
  ({"total_step": 3}, r"'total_step': did you mean 'total_steps'\?"),
]  # fmt: skip


def find_mistakes(config):
  """All that a training does before anything is compiled."""
  check.check(config)
  training = make_training(config)
  train.make_evaluate(config, training)


@pytest.mark.parametrize("changes, message", MISTAKES, ids=[str(each[0]) for each in MISTAKES])
def test_a_mistake_is_named_with_the_near_miss(tiny, changes, message):
  with pytest.raises(ConfigError, match=message):
    find_mistakes(tiny(**changes))


SMOOTHING_MISTAKES = [
  ({"objective__sigma": -0.5}, r"config.objective: sigma=-0.5: expected the standard deviation"),
  ({"objective__sigma": 64.0}, r"config.objective: sigma=64.0: .*: did you mean 64/255 = 0.25"),
  ({"evals__noisy__sigma": 64.0}, r"config.evals.noisy: sigma=64.0: .*: did you mean 64/255"),
  ({"objective__num_noise_vec": 0}, r"config.objective: num_noise_vec=0: expected .*at least 1"),
  ({"objective__num_steps": 0}, r"config.objective: num_steps=0: expected .*at least 1"),
  ({"objective__etha": 1.0}, r"'objective.etha': did you mean 'eta'\?"),
  ({"objective": {"name": "standard"}}, r"config.evals.noisy.sigma is 0, and the objective has no"),
  ({"evals__noisy__evaluator": "nosy"}, r"evals.noisy.evaluator='nosy': did you mean 'noisy'"),
  ({"evals__noisy": {"evaluator": "noisy", "sgima": 1}}, r"noisy.sgima': did you mean 'sigma"),
  ({"evals__noisy": {"evaluator": "attacked"}}, r"evals.noisy.attack needs name, norm and eps"),
  ({"select": ("robust", "max")}, r"config.select='robust': expected one of 'clean', 'noisy'"),
  ({"evaluation__exit": "lst"}, r"config.evaluation.exit='lst': did you mean 'last'"),
  ({"evaluation__exit": "3"}, r"config.evals: exit=3: expected 0 to 0"),
  (
    {"data__num_heldout": 0, "evaluation__checkpoint": "best"},
    r"num_heldout=0 leaves only test images to look at",
  ),
]  # fmt: skip


@pytest.mark.parametrize("changes, message", SMOOTHING_MISTAKES)
def test_a_mistake_in_smoothing_is_named(tiny, changes, message):
  objective = {"name": "smoothmix", "sigma": 0.5, "num_noise_vec": 2}
  config = tiny(objective=objective, evals=presets.evals(noise=0.0), select=("noisy", "max"))
  find_mistakes(config)
  for key, value in changes.items():
    *parents, name = key.split("__")
    place = functools.reduce(lambda block, parent: block[parent], parents, config)
    with place.ignore_type():
      place[name] = value
  with pytest.raises(ConfigError, match=message):
    find_mistakes(config)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"ema__decay": 99.5}, r"config.ema: decay=99.5: expected a share, 0 to 1"),
    ({"ema__warmup_steps": -1}, r"config.ema: warmup_steps=-1: expected a whole number"),
    ({"data__train_split": "trian"}, r"config.data: split='trian': did you mean 'train'"),
    ({"data__test_name": "/nowhere/x"}, r"/nowhere/x: there is no such folder"),
  ],
)
def test_a_mistake_in_what_a_training_keeps_or_reads_is_named(tiny, changes, message):
  with pytest.raises(UserError, match=message):
    check.check(tiny(**changes))
    build.data(tiny(**changes))


@pytest.mark.parametrize("key", ["ema", "select", "init_from"])
def test_a_missing_key_is_named(tiny, key):
  config = tiny()
  del config[key]
  with pytest.raises(ConfigError, match=f"the config has no '{key}': begin with"):
    check.check(config)
  config = tiny()
  del config.evaluation["eps_list"]
  with pytest.raises(ConfigError, match=r"the config has no 'evaluation\.eps_list'"):
    check.check(config)


def test_an_attack_that_the_objective_does_not_use_is_not_tried(tiny):
  config = tiny(attack__start="unifrom")
  config.objective = {"name": "standard"}
  check.check(config)


def test_a_mistake_makes_no_workdir(tiny, tmp_path):
  with pytest.raises(ConfigError, match="'pgd'"):
    jobs.run(tiny(attack__name="pdg"), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


class Size:
  """What a duration is counted by."""

  num_examples = 64


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"schedule__name": "cosin"}, r"config.schedule.name='cosin': did you mean 'cosine'\?"),
    ({"schedule__warm_up": 3}, r"'schedule.warm_up': did you mean 'warmup_steps'\?"),
    ({"schedule__warmup_steps": 99}, r"config.schedule: warmup_steps=99"),
    ({"schedule__warmup_epochs": 1}, r"warmup is given as steps and epochs: keep one"),
    ({"optimizer__name": "sdg"}, r"config.optimizer.name='sdg': did you mean 'sgd'\?"),
    ({"optimizer__momentumm": 0.9}, r"'optimizer.momentumm': did you mean 'momentum'\?"),
    ({"total_epochs": 1}, r"total is given as steps and epochs: keep one"),
    ({"schedule__learning_rate": -0.1}, r"config.schedule: learning_rate=-0.1: expected a finite"),
    ({"schedule__gamma": -1.0}, r"config.schedule: gamma=-1.0: expected a finite"),
    ({"optimizer__momentum": 9.0}, r"config.optimizer: momentum=9.0: expected a share, 0 to 1"),
    ({"optimizer__weight_decay": -5e-4}, r"config.optimizer: weight_decay=-0.0005: expected"),
  ],
)
def test_a_mistake_in_the_optimizer_is_named(tiny, changes, message):
  with pytest.raises(ConfigError, match=message):
    make_optimizer(tiny(**changes), Size)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"generated__path": ""}, r"original_share=0.5 asks for generated images.*original_share=1"),
    ({"generated__path": "nowhere"}, r"nowhere: there is no such file or folder"),
    ({"data__num_heldout": 72}, r"config.data.num_heldout: num_heldout=72: expected 1 to 71"),
    ({"data__name": "digits", "data__test_split": "tst"}, r"config.data: split='tst'"),
    ({"data__name": "digits", "data__train_split": "trian"}, r"config.data: split='trian'"),
  ],
)
def test_data_that_are_not_there_are_named(tiny, changes, message):
  with pytest.raises(ValueError, match=message):
    build.data(tiny(**changes))


def test_generated_images_of_another_shape_are_refused(tiny):
  with pytest.raises(ConfigError, match=r"generated.path='made' has image_shape \(12, 12, 3\)"):
    build.data(tiny(data__name="digits"))


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"batch__sise": 8}, r"config.batch: .*sise"),
    ({"batch__original_share": 1.5}, r"config.batch: original_share=1.5"),
    ({"batch__num_slices": 3}, r"config.batch: num_slices=3"),
  ],
)
def test_a_batch_that_cannot_be_made_is_named(tiny, changes, message):
  config = tiny(**changes)
  with pytest.raises(ConfigError, match=message):
    make_training(config)


def test_a_run_without_a_step_is_a_mistake(tiny, tmp_path):
  config = tiny()
  del config["total_steps"]
  with pytest.raises(ConfigError, match="the run has no step"):
    jobs.run(config, str(tmp_path))


@pytest.mark.parametrize(
  "block, message",
  [
    ({}, r"generate.method=''.*'convert', 'd_bugs'"),
    ({"method": "gausian"}, r"generate.method='gausian': did you mean 'gaussian'\?"),
    ({"method": "gaussian"}, r"config.generate: .*num_examples"),
    ({"method": "gaussian", "num_examples": 20, "rnk": 1}, "'generate.rnk': did you mean 'rank'"),
    ({"method": "convert"}, r"config.generate: .*path"),
    ({"method": "convert", "path": ""}, r"generate.path is empty"),
  ],
)
def test_a_mistake_in_what_is_generated_is_named(tiny, tmp_path, block, message):
  config = tiny(job="generate")
  config.generate = block
  with pytest.raises(ConfigError, match=message):
    jobs.run(config, str(tmp_path / "new"))
  assert not (tmp_path / "new").exists()


def test_call_passes_on_what_is_no_mistake_of_the_config():
  def function(x, *, power, bug=False):
    if bug:
      raise ZeroDivisionError
    return x**power

  assert blocks.call("block", function, 3, options={"power": 2}) == 9
  assert blocks.call("block", function, 3, options={}, power=3) == 27
  with pytest.raises(ConfigError, match=r"'block.power': did you mean|'block.power': expected"):
    blocks.call("block", function, 3, options={"power": 2}, power=3, bug=False)
  with pytest.raises(ZeroDivisionError):
    blocks.call("block", function, 3, options={"power": 2, "bug": True})


def test_devices_and_groups_that_do_not_fit_are_named(tiny):
  config = tiny(model__bn_group_size=3)
  net = build.model(config, 10)
  with pytest.raises(ConfigError, match=r"model.bn_group_size=3"):
    devices.num_microbatches(config, net, devices.make_mesh(config, net))


def test_what_check_builds_is_data(tiny):
  config = tiny()
  before = json.dumps(config_lib.to_data(config))
  check.check(config)
  assert json.dumps(config_lib.to_data(config)) == before
