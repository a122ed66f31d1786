"""PyTorch files as `init_from`: what completes the config, what is asked for, what is refused."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jax_robust
from jax_robust import config as config_lib
from jax_robust import jobs, main, models
from jax_robust.errors import ConfigError
from jax_robust.models import convert
from jax_robust.runs import init_from, nets, weights, workdir

FIELDS = {"depth": 10, "width": 2, "padding": "symmetric", "activation": "relu"}
X = np.random.default_rng(0).uniform(size=(3, 12, 12, 3)).astype(np.float32)
FROM_WEIGHTS = {"name": "from_weights"}
NONE = {"mean": (0.0,), "std": (1.0,)}


@functools.cache
def net_and_variables(name="wide_resnet", **fields):
  """A net of random weights and statistics, and its logits of X."""
  net = models.create(name, num_classes=10, zero_init_logits=False, **fields)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    scale = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if path[-1].key == "kernel" else 0.3
    values = rng.normal(size=leaf.shape) * scale
    return np.float32(np.exp(values) if path[-1].key in ("var", "scale") else values)

  variables = jax.tree.map_with_path(draw, shapes)
  return variables, np.asarray(jax.jit(net.apply)(variables, X))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A folder with `net.safetensors` in the layout of TRADES, and `check.npz`, its logits of X."""
  folder = tmp_path_factory.mktemp("files")
  variables, logits = net_and_variables(**FIELDS)
  arrays = convert.to_torch(variables, names="trades_wide_resnet")
  save_file({f"module.{k}": v for k, v in arrays.items()}, folder / "net.safetensors")
  np.savez(folder / "check.npz", images=X.transpose(0, 3, 1, 2), logits=logits)
  return folder


@pytest.fixture
def make(tiny, files):
  """`make(model, **changes)`: the tiny config with the file, and another block `model`."""

  def make(model, **changes):
    given = {"init_from": str(files / "net.safetensors"), "job": "evaluate", **changes}
    return tiny(model=model, **given)

  return make


def test_the_file_says_what_the_net_is(make, tmp_path):
  config = init_from.complete(make({**FROM_WEIGHTS, **NONE}), tmp_path)
  assert config.model.to_dict() == {"name": "wide_resnet", **FIELDS, **NONE}
  partly = init_from.complete(
    make({"name": "wide_resnet", "depth": 10, "width": 2, **NONE}), tmp_path
  )
  assert partly.model.to_dict() == config.model.to_dict()
  assert init_from.complete(config, tmp_path).model == config.model


def test_what_the_file_does_not_say_is_asked_for(make, tmp_path):
  message = (
    r"in the layout 'trades' .*do not tell mean and std: set --config.model.mean=… "
    r"--config.model.std=… \(mean=0 and std=1 where .*or init_check=FILE.npz"
  )
  with pytest.raises(ConfigError, match=message):
    init_from.complete(make(FROM_WEIGHTS), tmp_path)


def test_the_normalisation_of_the_file_wins(make, files, tmp_path):
  arrays = load_file(files / "net.safetensors")
  arrays |= {"module.mu": np.full((1, 3, 1, 1), 0.3), "module.sigma": np.full((1, 3, 1, 1), 0.7)}
  save_file(arrays, tmp_path / "net.safetensors")
  config = make(FROM_WEIGHTS, init_from=str(tmp_path / "net.safetensors"), data__name="cifar10")
  model = init_from.complete(config, tmp_path).model
  assert (model.mean, model.std) == ((0.3,) * 3, (0.7,) * 3)


def test_logits_find_what_is_open(make, files, tmp_path, capsys):
  """Of no normalisation, the data set's and 0.5, one gives the logits."""
  config = make(FROM_WEIGHTS, init_check=str(files / "check.npz"), data__name="cifar10")
  model = init_from.complete(config, tmp_path).model
  assert (model.mean, model.std) == ((0.0,), (1.0,))
  assert "the logits are those of init_check" in "".join(capsys.readouterr())


def test_logits_refuse_what_fits_in_shape_alone(make, files, tmp_path):
  """The same weights in a net that pads otherwise: the import is refused, not off by a little."""
  _, logits = net_and_variables(**{**FIELDS, "padding": "same"})
  np.savez(tmp_path / "check.npz", images=X, logits=logits)
  config = make({**FROM_WEIGHTS, **NONE}, init_check=str(tmp_path / "check.npz"))
  with pytest.raises(ConfigError, match="does not give the logits of init_check=.* pads or activ"):
    init_from.complete(config, tmp_path)


def test_our_own_weights_are_held_to_logits_too(make, tmp_path):
  variables, logits = net_and_variables(**FIELDS)
  save_file(convert.flatten_variables(variables), tmp_path / "net.safetensors")
  for factor, is_met in ((1, True), (1.01, False)):
    np.savez(tmp_path / "check.npz", images=X, logits=logits * factor)
    given = {"init_from": str(tmp_path / "net.safetensors")}
    given["init_check"] = str(tmp_path / "check.npz")
    config = make({"name": "wide_resnet", **FIELDS, **NONE}, **given)
    if is_met:
      assert init_from.complete(config, tmp_path).model == config.model
    else:
      with pytest.raises(ConfigError, match="does not give the logits of init_check"):
        init_from.complete(config, tmp_path)


def save_changed(files, place, change):
  """The file with other arrays."""
  save_file(change(load_file(files / "net.safetensors")), place)


def with_value(name, value):
  return lambda arrays: {**arrays, name: value(arrays[name])}


def with_nan(array):
  return np.where(np.arange(array.size).reshape(array.shape) == 0, np.nan, array)


CONV = "module.block1.layer.0.conv1.weight"
BAD_FILES = {
  "nobody's": (lambda a: {"features.0.weight": a[CONV]}, "no layout that is known has its names"),
  "missing": (
    lambda a: {k: v for k, v in a.items() if k != "module.bn1.running_var"},
    "in the layout 'trades': .*missing: bn1.running_var, for batch_stats/batchnorm/var",
  ),
  "extra": (lambda a: {**a, "module.fc2.weight": np.ones((2, 2))}, "left over: fc2.weight"),
  "shape": (with_value(CONV, lambda a: a[:, :8]), "shape: block1.layer.0.conv1.weight is"),
  "nan": (with_value(CONV, with_nan), "holds NaN or infinity, in 1 of its"),
  "integers": (
    with_value(CONV, lambda a: a.astype(np.int32)),
    "block1.layer.0.conv1.weight has dtype int32",
  ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_fits_no_net_is_a_message(case, make, files, tmp_path, capsys):
  change, message = BAD_FILES[case]
  save_changed(files, tmp_path / "net.safetensors", change)
  config = make({**FROM_WEIGHTS, **NONE}, init_from=str(tmp_path / "net.safetensors"))
  with pytest.raises(ConfigError, match=f"(?s){message}"):
    weights.read_init(init_from.complete(config, tmp_path))


def test_pickled_weights_are_refused_with_the_remedy(make, tmp_path):
  (tmp_path / "net.pt").write_bytes(b"pickle")
  config = make({**FROM_WEIGHTS, **NONE}, init_from=str(tmp_path / "net.pt"))
  with pytest.raises(ConfigError, match=r"\.pt weights are pickles.*weights_only=True"):
    init_from.complete(config, tmp_path)


def check_file(**arrays):
  def write(place):
    np.savez(place, **arrays)

  return write


LOGITS = np.ones((3, 10))
BAD_CHECKS = {
  "absent": (lambda place: None, "there is no such file"),
  "pickled": (check_file(images=X, logits=np.array([{}], object)), "pickled objects"),
  "no logits": (check_file(images=X), "has no 'logits': it needs both"),
  "other count": (check_file(images=X, logits=LOGITS[:2]), r"has images .* and logits \(2, 10\)"),
  "zero": (check_file(images=X, logits=0 * LOGITS), "the logits are all zero"),
  "range": (check_file(images=2 * X - 1, logits=LOGITS), r"images are not in \[0, 1\]"),
  "classes": (check_file(images=X, logits=LOGITS[:, :4]), "do not fit this model"),
}


@pytest.mark.parametrize("case", BAD_CHECKS)
def test_a_check_that_could_tell_nothing_is_a_message(case, make, tmp_path):
  write, message = BAD_CHECKS[case]
  write(tmp_path / "check.npz")
  config = make({**FROM_WEIGHTS, **NONE}, init_check=str(tmp_path / "check.npz"))
  with pytest.raises(Exception, match=message) as caught:
    init_from.complete(config, tmp_path)
  assert isinstance(caught.value, jax_robust.errors.UserError)


BAD_CONFIGS = {
  "other net": (
    {"name": "wide_resnet", "depth": 28, **NONE},
    {},
    r"has depth=10, but config.model has depth=28: set them so, or --config.model.name=from_w",
  ),
  "padding": (
    {"name": "wide_resnet", "padding": "same", **NONE},
    {},
    "padding='symmetric', but config.model has padding='same'",
  ),
  "layout": (FROM_WEIGHTS, {"init_layout": "trade"}, "init_layout='trade': did you mean 'trades'"),
  "other layout": (FROM_WEIGHTS, {"init_layout": "kuangliu"}, "it has not the layout 'kuangliu'"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_config_that_says_otherwise_is_a_message(case, make, tmp_path):
  model, changes, message = BAD_CONFIGS[case]
  with pytest.raises(ConfigError, match=message):
    init_from.complete(make(model, **changes), tmp_path)


def test_layouts_are_for_pytorch_files(make, tmp_path):
  variables, _ = net_and_variables(**FIELDS)
  save_file(convert.flatten_variables(variables), tmp_path / "net.safetensors")
  ours = {"init_from": str(tmp_path / "net.safetensors")}
  for model, changes in ((FROM_WEIGHTS, {}), ({"name": "mlp"}, {"init_layout": "trades"})):
    with pytest.raises(ConfigError, match="is no PyTorch state dict"):
      init_from.complete(make(model, **ours, **changes), tmp_path)


def test_a_file_that_is_not_there_is_a_message(make, tmp_path):
  with pytest.raises(ConfigError, match="there is no such file"):
    init_from.complete(make(FROM_WEIGHTS, init_from=str(tmp_path / "net.safetensors")), tmp_path)
  with pytest.raises(ConfigError, match="init_from='' is no PyTorch state dict"):
    init_from.complete(make(FROM_WEIGHTS, init_from=""), tmp_path)
  with pytest.raises(ConfigError, match="init_check is for weights from elsewhere"):
    init_from.complete(make({"name": "mlp"}, init_from="", init_check="check.npz"), tmp_path)


def test_weights_that_were_not_completed_are_refused(make):
  """The Python API: a net that could pad otherwise is not filled with these weights."""
  with pytest.raises(ConfigError, match="do not tell .*padding .*set --config.model.padding=symm"):
    weights.read_init(make({"name": "wide_resnet", "depth": 10, "width": 2, **NONE}))


@pytest.mark.thorough
def test_a_run_from_a_pytorch_file_goes_out_to_one(make, files, tmp_path):
  """Trained, known without the file, exported, and read again without a question."""
  own, run = tmp_path / "own.safetensors", tmp_path / "run"
  own.write_bytes((files / "net.safetensors").read_bytes())
  config = make({**FROM_WEIGHTS, **NONE}, init_from=str(own), job="train")
  config.objective, config.evals = {"name": "standard"}, {"clean": {"evaluator": "clean"}}
  config.select, config.total_steps = ("clean", "max"), 2
  del config.attack
  jobs.run(config, run)
  stored = workdir.read_config(run)
  assert stored["model"]["padding"] == "symmetric" and stored["model"]["name"] == "wide_resnet"
  own.unlink()
  assert (
    init_from.complete(config, run).model.to_dict() == config_lib.from_data(stored).model.to_dict()
  )

  export = [f"--config={run / 'config.json'}", f"--workdir={run}", "--config.job=export"]
  assert main.main([*export, "--config.export.format=torch"]) == 0
  manifest = json.loads((run / "export/torch/manifest.json").read_text())
  assert manifest["layout"] == "trades"
  assert manifest["model"]["padding"] == "symmetric" and manifest["model"]["mean"] == [0]
  config = config_lib.load(str(run / "config.json"))
  config.init_from, config.model = str(run / "export/torch"), FROM_WEIGHTS
  config = init_from.complete(config, tmp_path)
  (net,) = nets.each_net(config, tmp_path, source=SOURCE)
  expected = jax_robust.load(str(run))(jnp.asarray(X))
  np.testing.assert_allclose(net.logits_fn(jnp.asarray(X)), expected, rtol=1e-6, atol=1e-6)


def test_the_command_line_reads_and_stores_it(files, tmp_path, tiny_file):
  flags = [
    f"--config={tiny_file}", f"--config.init_from={files / 'net.safetensors'}",
    "--config.model.name=from_weights", "--config.model.mean=0", "--config.model.std=1",
    "--config.job=evaluate", f"--workdir={tmp_path}",
  ]  # fmt: skip
  for _ in range(2):
    assert main.main(flags) == 0
  assert workdir.read_config(tmp_path)["model"]["std"] == [1]


@pytest.fixture
def tiny_file(tiny, tmp_path_factory):
  """The tiny config, measuring clean accuracy alone."""
  config = tiny(evals={"clean": {"evaluator": "clean"}}, select=("clean", "max"))
  path = tmp_path_factory.mktemp("config") / "config.json"
  path.write_text(json.dumps(config_lib.to_data(config)))
  return path


class SOURCE:
  """As much of a source as a net needs."""

  num_classes, image_shape, class_names, name = 10, (12, 12, 3), (), "made"


def test_a_net_without_a_layout_is_exported_for_flax_alone(copy, capsys):
  argv = [f"--config={copy / 'config.json'}", f"--workdir={copy}", "--config.job=export"]
  assert main.main([*argv, "--config.export.format=torch"]) == 2
  assert "config.export: a mlp like this can't be written in any PyTorch" in capsys.readouterr().err
  assert main.main([*argv, "--config.export.format=toch"]) == 2
  assert "config.export.format='toch': did you mean 'torch'?" in capsys.readouterr().err
  assert main.main([*argv, "--config.export.layout=trades"]) == 2
  assert "is for PyTorch: set --config.export.format=torch" in capsys.readouterr().err
  assert not (copy / "export").exists()
