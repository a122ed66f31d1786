"""What a wheel would hold: every package, and the configs under `jax_robust.configs`."""

import re
import tomllib

import pytest

pytestmark = pytest.mark.fast


def test_every_package_is_listed(repository):
  listed = set(
    tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
  )
  found = {
    ".".join(path.parent.relative_to(repository).parts)
    for path in (repository / "jax_robust").rglob("__init__.py")
  }
  assert listed == found | {"jax_robust.configs"}


def test_types_are_shipped(repository):
  tools = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]
  assert "py.typed" in tools["setuptools"]["package-data"]["jax_robust"]
  assert (repository / "jax_robust" / "py.typed").exists()


def test_constraints_pin_every_dependency_and_nothing_of_one_machine(repository):
  project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
  extras = project["optional-dependencies"]
  named = ("plots", "train", "test", "dev", "frameworks")
  wanted = [*project["dependencies"], *(each for name in named for each in extras[name])]
  names = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted}
  names -= {"jax_robust", "tensorflow"}  # itself, and macOS' TensorFlow
  lines = (repository / "constraints.txt").read_text().splitlines()
  pinned = [line for line in lines if not line.startswith("#")]
  pin = re.compile(r'([\w.-]+)==[\w.]+(; python_version (<=|>) "3\.\d+")?')
  found = {pin.fullmatch(line)[1] for line in pinned}
  normal = {re.sub(r"[-_.]+", "-", name).lower() for name in found}
  assert {re.sub(r"[-_.]+", "-", name).lower() for name in names} <= normal


def test_packages_hold_no_stray_top_level_folder(repository):
  allowed = {"configs", "docs", "jax_robust", "launch", "tests"}
  folders = {path.name for path in repository.iterdir() if path.is_dir()}
  assert {name for name in folders if not name.startswith(".")} - allowed <= {
    name for name in folders if name.endswith((".egg-info", "__pycache__"))
  } | {"build", "dist"}


def test_every_dependency_is_used(repository):
  project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
  extras = project["optional-dependencies"]
  wanted = [*project["dependencies"], *extras["plots"], *extras["train"]]
  names = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted}
  names -= {"importlib_resources", "jax_robust"}  # see there, and itself
  modules = {
    "ml-collections": "ml_collections", "orbax-checkpoint": "orbax", "pillow": "PIL",
    "scikit-learn": "sklearn", "tensorflow-cpu": "tensorflow", "tensorflow-datasets":
    "tensorflow_datasets",
  }  # fmt: skip
  text = "\n".join(path.read_text() for path in (repository / "jax_robust").rglob("*.py"))
  for name in names:
    module = modules.get(name, name)
    assert re.search(rf"^\s*(import|from) {module}\b", text, re.MULTILINE), f"{name} is not used"
