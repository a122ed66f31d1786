"""Who may import whom, and how large things may become, read from the source."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "jax_robust"
FILES = sorted(PACKAGE.rglob("*.py"))

CORE = ("types", "errors", "losses", "nets", "attacks", "smoothing")
SHARED = (*CORE, "objectives", "models", "data", "generate", "train", "evaluate", "config",
          "presets")  # fmt: skip
MAY_IMPORT = {
  "types": (),
  "errors": (),
  "losses": ("types", "errors"),
  "nets": ("types", "errors"),
  "attacks": ("types", "errors", "losses", "nets"),
  "smoothing": ("types", "errors", "nets"),
  "objectives": CORE,
  "models": ("types", "errors"),
  "data": ("types", "errors"),
  "generate": ("types", "errors", "data"),
  "train": (*CORE, "objectives"),
  "evaluate": CORE,
  "config": ("errors",),
  "presets": ("config", "errors", "attacks"),
  "runs": SHARED,
  "jobs": (*SHARED, "runs"),
  "main": ("jobs", "runs", "config", "errors", "presets", "data", "train"),
  "__init__": ("attacks", "losses", "nets", "smoothing", "jobs", "runs"),
}
"""The rooms of the package, and those whose doors are open to each."""

STANDARD = sys.stdlib_module_names
OUTSIDE_THE_CORE = {"jax", "numpy", "scipy", "optax", "chex", "jaxtyping"}
"""What the core may import besides the standard library."""

ONLY_IN = {
  "orbax": ("train/checkpoint",),
  "flax": ("models", "train/state"),
  "ml_collections": ("config", "presets"),
  "tensorflow": ("data",),
  "tensorflow_datasets": ("data",),
  "tensorboardX": ("train/metrics",),
  "matplotlib": ("evaluate/plot_style",),
  "absl": (),
}
"""Packages, and the only places that know them."""

LAZY = ("tensorflow", "tensorflow_datasets", "tensorboardX", "matplotlib", "sklearn", "PIL")
"""Packages that are imported inside functions only."""


def place_of(path):
  """`train/loop`; a package is its folder."""
  return str(path.relative_to(PACKAGE).with_suffix("")).removesuffix("/__init__")


each_file = pytest.mark.parametrize("path", FILES, ids=place_of)


def imports(path):
  """(name, whether it is imported with the module) of every import of a file."""
  tree = ast.parse(path.read_text())
  inside = {
    id(node)
    for function in ast.walk(tree)
    if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for node in ast.walk(function)
  }
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "imports are absolute"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    yield from ((name, id(node) not in inside) for name in names)


@each_file
def test_imports_run_one_way(path):
  room = place_of(path).split("/")[0]
  for name, with_module in imports(path):
    first, *rest = name.split(".")
    if first != "jax_robust" or rest[0] == room:
      continue
    assert rest[0] in MAY_IMPORT[room], f"{room} imports {name}"
    assert room != "__init__" or not with_module or rest[0] in CORE, "the core only, by itself"


@each_file
def test_the_core_stands_on_little(path):
  if place_of(path).split("/")[0] not in CORE:
    return
  for name, _ in imports(path):
    first = name.split(".")[0]
    assert first == "jax_robust" or first in OUTSIDE_THE_CORE or first in STANDARD, name


@each_file
def test_heavy_packages_have_one_place(path):
  place = place_of(path)
  for name, with_module in imports(path):
    first = name.split(".")[0]
    assert not (first in LAZY and with_module), f"{name} is loaded with the module"
    if first in ONLY_IN:
      known = any(place == only or place.startswith(f"{only}/") for only in ONLY_IN[first])
      assert known, f"{place} imports {name}"


@each_file
def test_nothing_is_unpickled_or_evaluated(path):
  for name, _ in imports(path):
    assert name.split(".")[0] not in ("pickle", "dill", "cloudpickle", "marshal", "shelve")
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      assert node.func.id not in ("eval", "exec"), f"line {node.lineno}"
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
      assert isinstance(node.value, ast.Constant) and node.value.value is False


@each_file
def test_files_and_functions_stay_small(path):
  text = path.read_text()
  assert len(text.splitlines()) <= 300
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      body = node.body[1:] if ast.get_docstring(node) else node.body
      lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
      assert lines <= 50, f"{node.name} has {lines} lines below its docstring"


def test_every_room_is_in_the_picture():
  assert {place_of(path).split("/")[0] for path in FILES} == set(MAY_IMPORT)
