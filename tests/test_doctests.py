"""The examples in docstrings and in the pages run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import jax_robust

MODULES = sorted(
  info.name for info in pkgutil.walk_packages(jax_robust.__path__, "jax_robust.")
  if not info.name.startswith("jax_robust.configs")
)  # fmt: skip
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
  result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
  assert result.failed == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
  ("page", "least"),
  [
    ("README.md", 10),
    ("docs/evaluation.md", 16),
    ("docs/smoothing.md", 8),
    ("docs/own_data.md", 14),
  ],
)
def test_examples_of_the_pages(repository, page, least):
  result = doctest.testfile(str(repository / page), module_relative=False, optionflags=FLAGS)
  assert result.attempted >= least
  assert result.failed == 0
