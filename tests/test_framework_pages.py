"""The page on other frameworks: each section runs where its framework is installed."""

import doctest
import re
import subprocess
import sys

import pytest

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
OPTIONS = [f"-o{name}" for name in ("NORMALIZE_WHITESPACE", "ELLIPSIS", "IGNORE_EXCEPTION_DETAIL")]
MODULES = {"Flax NNX": "flax", "Equinox": "equinox", "Haiku": "haiku"}


def sections(repository):
  """The page's opening, and its sections by their titles."""
  opening, *rest = re.split(r"(?m)^## ", (repository / "docs" / "frameworks.md").read_text())
  return opening, {text.partition("\n")[0]: text for text in rest}


@pytest.mark.thorough
@pytest.mark.parametrize("title", MODULES)
def test_examples_of_the_section(repository, title):
  pytest.importorskip(MODULES[title], reason="pip install 'jax_robust[frameworks]'")
  opening, by_title = sections(repository)
  assert {*by_title} == {*MODULES, "Keras"}
  test = doctest.DocTestParser().get_doctest(opening + by_title[title], {}, title, None, None)
  result = doctest.DocTestRunner(optionflags=FLAGS).run(test)
  assert result.attempted >= 10
  assert result.failed == 0


@pytest.mark.slow
def test_examples_with_keras(repository, tmp_path):
  """In a process of its own, since Keras chooses its backend when it is first imported."""
  opening, by_title = sections(repository)
  page = tmp_path / "keras.md"
  page.write_text(opening + by_title["Keras"])
  done = subprocess.run(
    [sys.executable, "-m", "doctest", "-v", *OPTIONS, page],
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout
  assert " passed" in done.stdout and "keras.Sequential" in done.stdout
