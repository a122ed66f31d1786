"""Weights in files and in PyTorch's names and layouts, converted both ways; never unpickled."""

import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jax_robust.errors import brought_by, check_name

Names = str | Mapping[str, str]

_MOST_UNPACKED, _MOST_EXPANSION = 64 << 20, 200  # of an array: what unpacks to more is no weight

# torchvision's names, from 1 on.
_GROUPS = tuple((rf"^layer_{i}_block_(\d+)", rf"layer{i + 1}.\1") for i in range(4))
_LAYERS = (
  (r"^init_conv$", "conv1"),
  *((rf"conv_{i}$", f"conv{i + 1}") for i in range(3)),
  *((rf"(?<!shortcut_)batchnorm_{i}$", f"bn{i + 1}") for i in range(3)),
)
_RESNET = (
  *_LAYERS,
  *_GROUPS,
  (r"^batchnorm$", "bn1"),
  (r"^logits$", "fc"),
  (r"shortcut$", "downsample.0"),
  (r"shortcut_batchnorm$", "downsample.1"),
)

# Model, or layout of `models.layouts`: (pattern, replacement) pairs that turn a dotted Flax module
# path into the PyTorch one. The first two are the names of DeepMind's released models.
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
  "wide_resnet": ((r"^layer_(\d+)_block_(\d+)", r"layer.\1.block.\2"),),
  "preact_resnet18": (
    (r"^init_conv$", "conv_2d"),
    (r"\.conv_0$", ".conv_2d_1"),
    (r"\.conv_1$", ".conv_2d_2"),
    (r"^layer_(\d+)_block_(\d+)", r"layer_\1.\2"),
  ),
  "trades_wide_resnet": (
    *_LAYERS,
    *((rf"^layer_{i}_block_(\d+)", rf"block{i + 1}.layer.\1") for i in range(3)),
    (r"^batchnorm$", "bn1"),
    (r"^logits$", "fc"),
    (r"shortcut$", "convShortcut"),
  ),
  "kuangliu_resnet": (
    *_LAYERS,
    *_GROUPS,
    (r"^batchnorm$", "bn1"),
    (r"^logits$", "linear"),
    (r"shortcut$", "shortcut.0"),
    (r"shortcut_batchnorm$", "shortcut.1"),
  ),
  "kuangliu_preact_resnet": (
    *_LAYERS,
    *_GROUPS,
    (r"^batchnorm$", "bn"),
    (r"^logits$", "linear"),
    (r"shortcut$", "shortcut.0"),
  ),
  "cifar_resnet": _RESNET,
  "resnet18": _RESNET,
  "resnet50": _RESNET,
  # The program's modules are numbered by their place: `first` is a block's 0.
  "msdnet": (
    (r"^exit_(\d+)\.logits$", r"classifier.\1.linear"),
    (r"^exit_(\d+)\.convs\.conv_(\d)$", r"classifier.\1.m.\2.net.0"),
    (r"^exit_(\d+)\.convs\.batchnorm_(\d)$", r"classifier.\1.m.\2.net.1"),
    (r"^block_(\d+)\.first_scale_(\d+)", r"blocks.\1.0.layers.\2.net"),
    (r"^block_(\d+)\.layer_(\d+)_scale_(\d+)_(\w+?)\.", r"blocks.\1.\2.layers.\3.conv_\4.net."),
    (r"^block_(\d+)\.transition_(\d+)_scale_(\d+)", r"blocks.\1.\2.m.\3.net"),
    (r"net\.conv_0$", "net.0"),
    (r"net\.batchnorm_0$", "net.1"),
    (r"net\.conv_1$", "net.3"),
    (r"net\.batchnorm_1$", "net.4"),
  ),
  "lenet": (
    (r"^conv_0$", "conv1"),
    (r"^conv_1$", "conv2"),
    (r"^hidden$", "fc1"),
    (r"^logits$", "fc2"),
  ),
  "small_cnn": (
    (r"^conv_(\d+)$", r"convs.\1"),
    (r"^batchnorm_(\d+)$", r"bns.\1"),
    (r"^logits$", "fc"),
  ),
}

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
  "count": "num_batches_tracked",
}

# The count of a debiased average that has long forgotten its start.
_SETTLED = 1_000_000


def flatten_variables(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Names every array of nested variables by its path: a flat dict, as safetensors stores it.

  >>> flatten_variables({"params": {"logits": {"bias": np.zeros(2)}}}).keys()
  dict_keys(['params/logits/bias'])
  """
  return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(variables, sep="/").items()}


def unflatten_variables(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Undoes `flatten_variables`: nested dicts from names with '/'.

  >>> unflatten_variables({"params/logits/bias": 0})
  {'params': {'logits': {'bias': 0}}}
  """
  return traverse_util.unflatten_dict(dict(arrays), sep="/")


def _refuse(path: pathlib.Path, reason: str) -> ValueError:
  """The error for a file that holds pickles, or may."""
  return ValueError(
    f"{path}: {reason}, and unpickling runs whatever code the file names. Convert it where you "
    "trust it: in PyTorch, safetensors.torch.save_file(torch.load(path, weights_only=True), "
    "'weights.safetensors'); in NumPy, np.savez('weights.npz', **arrays) with plain arrays."
  )


def load_arrays(path: str | pathlib.Path, *, prefix: str = "") -> dict[str, np.ndarray]:
  """Reads named arrays from an .npz or .safetensors file; never unpickles.

  Args:
    path: the file.
    prefix: only names that start with it are read, and it is cut off ('module.', 'weights/').

  Returns:
    The arrays by name.

  Raises:
    ValueError: for a pickle (.pt, .pth, .npy, .pkl, object arrays), another kind of file, or a
      prefix that no name has.
    FileNotFoundError: if there is no such file.
  """
  path = pathlib.Path(path)
  if path.suffix in (".pt", ".pth", ".pkl", ".pickle", ".npy", ".ckpt", ".bin"):
    raise _refuse(path, f"{path.suffix} weights are pickles")
  if path.suffix not in (".npz", ".safetensors"):
    raise ValueError(f"{path}: expected a .npz or .safetensors file, not {path.suffix!r}")
  if path.exists() and not path.is_file():
    raise ValueError(f"{path}: is no file (but a folder, a pipe or a device)")
  read = _read_npz if path.suffix == ".npz" else _read_safetensors
  arrays = read(path, prefix)
  if not arrays:
    raise ValueError(f"{path}: no array's name starts with prefix={prefix!r}")
  return arrays


def weight_problem(name: str, array: Any) -> str | None:
  """Why an array can't be a weight: it holds NaN or infinity, or is not floating-point; or None.

  >>> weight_problem("params/bias", np.array([0.5, np.nan]))
  'params/bias holds NaN or infinity, in 1 of its 2 values'
  >>> weight_problem("params/bias", np.arange(3))
  'params/bias has dtype int64: expected floating-point weights'
  """
  array = np.asarray(array)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    return f"{name} has dtype {array.dtype}: expected floating-point weights"
  count = array.size - int(np.count_nonzero(np.isfinite(array)))
  return f"{name} holds NaN or infinity, in {count} of its {array.size} values" if count else None


def _read_npz(path: pathlib.Path, prefix: str) -> dict[str, np.ndarray]:
  """The plain arrays of an .npz; a PyTorch file is a zip too, and is refused."""
  if not zipfile.is_zipfile(path):
    path.stat()  # a missing file is its own error
    raise _refuse(path, "is no .npz archive, so it may be a pickle")
  arrays = {}
  with zipfile.ZipFile(path) as archive:
    for each in archive.infolist():
      if each.file_size > _MOST_UNPACKED and each.file_size > _MOST_EXPANSION * each.compress_size:
        raise ValueError(
          f"{path}: {each.filename!r} would unpack to {each.file_size:,} bytes from "
          f"{each.compress_size:,}, as weights never do"
        )
  with np.load(path, allow_pickle=False) as archive:
    for name in archive.files:
      if not name.startswith(prefix):
        continue
      try:
        array = archive[name]
      except ValueError as error:
        raise _refuse(path, f"{name!r} is an array of pickled objects") from error
      except (MemoryError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {name!r} is damaged ({error})") from error
      if not isinstance(array, np.ndarray):
        raise _refuse(path, f"{name!r} is no NumPy array but a raw file, as in PyTorch's archives")
      arrays[name.removeprefix(prefix)] = array
  return arrays


def _read_safetensors(path: pathlib.Path, prefix: str) -> dict[str, np.ndarray]:
  """The arrays of a safetensors file."""
  with brought_by("train"):
    from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework="numpy") as file:
      names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
      return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
  except SafetensorError as error:
    raise ValueError(f"{path}: is no safetensors file ({error})") from error


def read_metadata(path: str | pathlib.Path) -> dict[str, str]:
  """What a safetensors file says of itself, as `save_file(..., metadata=...)` wrote it; or nothing.

  Raises:
    ValueError: it is called .safetensors, and is no such file.
  """
  if pathlib.Path(path).suffix != ".safetensors":
    return {}
  with brought_by("train"):
    from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework="numpy") as file:
      return dict(file.metadata() or {})
  except SafetensorError as error:
    raise ValueError(f"{path}: is no safetensors file ({error})") from error


def _torch_name(path: tuple[str, ...], names: Names) -> str:
  """The PyTorch name of a Flax leaf, `path` without its collection."""
  module = ".".join(path[:-1])
  if isinstance(names, Mapping):
    module = names.get("/".join(path[:-1]), module)
  else:
    for pattern, replacement in NAMES[names]:
      module = re.sub(pattern, replacement, module)
  return f"{module}.{_LEAVES[path[-1]]}"


def _transposed(array: Any, leaf: str, axes: tuple[int, ...]) -> np.ndarray:
  """An array as it is, but kernels: of convolutions by `axes`, of linear layers the transpose."""
  array = np.asarray(array)
  if leaf != "kernel":
    return array
  return array.transpose(axes if array.ndim == 4 else None)


def from_torch(
  arrays: Mapping[str, np.ndarray], variables: Mapping[str, Any], *, names: Names
) -> dict[str, Any]:
  """Arranges PyTorch arrays as a net's variables.

  Convolutions go from OIHW to HWIO, linear layers from out x in to in x out; BatchNorm's `weight`,
  `running_mean` and `running_var` become `scale`, `mean` and `var`. `num_batches_tracked` fills the
  count of debiased averages, and is ignored where there is none.

  Guarantees:
    `converter_round_trip`: `from_torch(to_torch(v), v)` is v.

  Args:
    arrays: by PyTorch name, as from `load_arrays`.
    variables: what the net expects: its variables, or their shapes from
      `jax.eval_shape(net.init, rng, x)`.
    names: a key of `NAMES`, or a mapping from Flax module path ('block_0/conv_0') to PyTorch module
      name ('block.0.conv1'), where what it lacks keeps its name with dots.

  Returns:
    `{'params': ..., 'batch_stats': ...}` of NumPy arrays, in the dtypes of `variables`.

  Raises:
    ValueError: if an array is missing, left over, of another shape, not finite, or of integers
      where weights are expected: all of them, by name.
  """
  if isinstance(names, str):
    check_name("names", names, NAMES)
  result, problems, used = {}, [], set()
  flat: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(variables))
  for path, leaf in flat.items():
    name = _torch_name(path[1:], names)
    used.add(name)
    if name not in arrays and path[-1] == "count":
      array = np.asarray(_SETTLED)
    elif name not in arrays:
      problems.append(f"missing: {name}, for {'/'.join(path)} {tuple(leaf.shape)}")
      continue
    else:
      array = _transposed(arrays[name], path[-1], (2, 3, 1, 0))
    if array.shape != tuple(leaf.shape):
      problems.append(
        f"shape: {name} is {np.shape(arrays[name])}, which gives {array.shape}; "
        f"{'/'.join(path)} is {tuple(leaf.shape)}"
      )
    if jnp.issubdtype(leaf.dtype, jnp.floating) and name in arrays and path[-1] != "count":
      problem = weight_problem(name, array)
      problems += [f"value: {problem}"] if problem else []
    result[path] = array.astype(leaf.dtype)
  left_over = [n for n in arrays if n not in used and not n.endswith("num_batches_tracked")]
  problems += [f"left over: {name} {np.shape(arrays[name])}" for name in left_over]
  if problems:
    raise ValueError("the arrays do not fit the model:\n  " + "\n  ".join(problems))
  return traverse_util.unflatten_dict(result)


def to_torch(variables: Mapping[str, Any], *, names: Names) -> dict[str, np.ndarray]:
  """Undoes `from_torch`: a net's variables by PyTorch name and in PyTorch's layout.

  Args:
    variables: `{'params': ..., 'batch_stats': ...}`.
    names: as in `from_torch`.

  Returns:
    Contiguous NumPy arrays by PyTorch name.
  """
  if isinstance(names, str):
    check_name("names", names, NAMES)
  return {
    _torch_name(path[1:], names): np.array(_transposed(leaf, path[-1], (3, 2, 0, 1)), order="C")
    for path, leaf in traverse_util.flatten_dict(variables).items()
  }
