"""Weights to and from PyTorch and flat names."""

import functools
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jax_robust import models
from jax_robust.models.convert import (
  flatten_variables,
  from_torch,
  load_arrays,
  to_torch,
  unflatten_variables,
)

NETS = {
  "wide_resnet": models.WideResNet(num_classes=3, depth=10, width=1),
  "preact_resnet18": models.PreActResNet18(num_classes=3, width=2),
  "small_cnn": models.SmallCNN(num_classes=3, channels=(4,), strides=(1,), bn_debias=True),
  "cifar_resnet": models.CifarResNet(num_classes=3, depth=8),
  "resnet18": models.ResNet18(num_classes=3, width=2),
  "resnet50": models.ResNet50(num_classes=3),
}


@functools.cache
def random_variables(net):
  """Variables with every entry different, so that a transposed or swapped array shows."""
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  leaves, structure = jax.tree.flatten(shapes)
  start, drawn = 0, []
  for leaf in leaves:
    drawn.append(np.arange(start, start + leaf.size, dtype=leaf.dtype).reshape(leaf.shape))
    start += leaf.size
  return jax.tree.unflatten(structure, drawn)


def assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NETS)
def test_converter_round_trip(name):
  variables = random_variables(NETS[name])
  assert_equal(from_torch(to_torch(variables, names=name), variables, names=name), variables)


def test_released_names_and_layouts():
  arrays = to_torch(random_variables(NETS["wide_resnet"]), names="wide_resnet")
  block = "layer.1.block.0"
  assert arrays[f"{block}.conv_0.weight"].shape == (32, 16, 3, 3)
  assert arrays[f"{block}.shortcut.weight"].shape == (32, 16, 1, 1)
  assert arrays["logits.weight"].shape == (3, 64)
  assert {f"{block}.batchnorm_1.{s}" for s in ("weight", "bias", "running_var")} <= arrays.keys()
  preact = to_torch(random_variables(NETS["preact_resnet18"]), names="preact_resnet18")
  assert {"conv_2d.weight", "layer_3.1.conv_2d_2.weight", "layer_1.0.shortcut.weight"} <= (
    preact.keys()
  )


def test_names_may_be_a_mapping():
  variables = random_variables(models.MLP(num_classes=2, hidden=(3,)))
  arrays = to_torch(variables, names={"hidden_0": "features.0"})
  assert arrays.keys() == {f"{m}.{w}" for m in ("features.0", "logits") for w in ("weight", "bias")}
  assert_equal(from_torch(arrays, variables, names={"hidden_0": "features.0"}), variables)


def test_count_of_batches():
  """PyTorch's own count is taken over; without one the average counts as settled."""
  variables = random_variables(NETS["small_cnn"])
  arrays = to_torch(variables, names="small_cnn")
  assert arrays["bns.0.num_batches_tracked"] == variables["batch_stats"]["batchnorm_0"]["count"]
  del arrays["bns.0.num_batches_tracked"]
  count = from_torch(arrays, variables, names="small_cnn")["batch_stats"]["batchnorm_0"]["count"]
  assert 0.99 ** int(count) < 1e-6
  plain = NETS["small_cnn"].clone(bn_debias=False)
  arrays["bns.0.num_batches_tracked"] = np.array(7)
  stats = from_torch(arrays, random_variables(plain), names="small_cnn")["batch_stats"]
  assert stats["batchnorm_0"].keys() == {"mean", "var"}


def test_every_mismatch_is_listed():
  variables = random_variables(NETS["wide_resnet"])
  arrays = to_torch(variables, names="wide_resnet")
  del arrays["logits.bias"]
  arrays["init_conv.weight"] = np.zeros((16, 1, 3, 3))
  arrays["fc.weight"] = np.zeros((3, 64))
  with pytest.raises(ValueError, match="do not fit the model") as error:
    from_torch(arrays, variables, names="wide_resnet")
  lines = str(error.value).splitlines()[1:]
  assert [line.strip() for line in sorted(lines)] == [
    "left over: fc.weight (3, 64)",
    "missing: logits.bias, for params/logits/bias (3,)",
    "shape: init_conv.weight is (16, 1, 3, 3), which gives (3, 3, 1, 16); "
    "params/init_conv/kernel is (3, 3, 3, 16)",
  ]


def test_misspelt_names():
  message = r"names='wide_resent': did you mean 'wide_resnet'\?"
  with pytest.raises(ValueError, match=message):
    from_torch({}, {}, names="wide_resent")
  with pytest.raises(ValueError, match=message):
    to_torch({}, names="wide_resent")


def test_flatten_round_trip_through_safetensors(tmp_path):
  variables = random_variables(NETS["small_cnn"])
  flat = flatten_variables(variables)
  assert "batch_stats/batchnorm_0/mean" in flat
  save_file(flat, tmp_path / "net.safetensors")
  assert_equal(unflatten_variables(load_arrays(tmp_path / "net.safetensors")), variables)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_load_arrays_reads_and_cuts_the_prefix(tmp_path, suffix):
  path = tmp_path / f"weights{suffix}"
  arrays = {"module.a": np.arange(3), "other": np.ones((2, 2), np.float32)}
  np.savez(path, **arrays) if suffix == ".npz" else save_file(arrays, path)
  assert_equal(load_arrays(path), arrays)
  assert_equal(load_arrays(str(path), prefix="module."), {"a": np.arange(3)})
  with pytest.raises(ValueError, match=r"no array's name starts with prefix='modul_'"):
    load_arrays(path, prefix="modul_")


REMEDY = "Convert it where you trust it.*weights.safetensors.*np.savez"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npy", ".pkl", ".ckpt", ".bin"])
def test_pickle_suffixes_are_refused(tmp_path, suffix):
  path = tmp_path / f"net{suffix}"
  with pytest.raises(ValueError, match=rf"net\{suffix}: \{suffix} weights are pickles.*{REMEDY}"):
    load_arrays(path)


def test_object_arrays_are_refused(tmp_path):
  path = tmp_path / "net.npz"
  np.savez(path, fine=np.ones(2), params=np.array([{"a": 1}], dtype=object))
  with pytest.raises(ValueError, match=rf"net.npz: 'params' .* pickled objects.*{REMEDY}"):
    load_arrays(path)
  assert load_arrays(path, prefix="fine").keys() == {""}


def test_renamed_pickles_are_refused(tmp_path):
  path = tmp_path / "net.npz"
  path.write_bytes(pickle.dumps({"a": 1}))
  with pytest.raises(ValueError, match=rf"net.npz: is no .npz archive.*{REMEDY}"):
    load_arrays(path)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
  with pytest.raises(ValueError, match=rf"'archive/data.pkl' is no NumPy array.*{REMEDY}"):
    load_arrays(path)
  path = tmp_path / "net.safetensors"
  path.write_bytes(pickle.dumps({"a": 1}))
  with pytest.raises(ValueError, match=r"net.safetensors: is no safetensors file"):
    load_arrays(path)


def test_other_files_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"expected a .npz or .safetensors file, not '.h5'"):
    load_arrays(tmp_path / "net.h5")
  for suffix in (".npz", ".safetensors"):
    with pytest.raises(FileNotFoundError):
      load_arrays(tmp_path / f"absent{suffix}")
