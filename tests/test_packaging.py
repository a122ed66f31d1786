"""What a wheel would hold: every package, and the configs under `jax_robust.configs`."""

import tomllib


def test_every_package_is_listed(repository):
  listed = set(
    tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
  )
  found = {
    ".".join(path.parent.relative_to(repository).parts)
    for path in (repository / "jax_robust").rglob("__init__.py")
  }
  assert listed == found | {"jax_robust.configs"}


def test_packages_hold_no_stray_top_level_folder(repository):
  allowed = {"configs", "docs", "jax_robust", "launch", "tests"}
  folders = {path.name for path in repository.iterdir() if path.is_dir()}
  assert {name for name in folders if not name.startswith(".")} - allowed <= {
    name for name in folders if name.endswith((".egg-info", "__pycache__"))
  } | {"build", "dist"}
