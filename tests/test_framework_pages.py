"""The page on other frameworks: each section runs where its framework is installed."""

import doctest
import re

import pytest

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
MODULES = {"Flax NNX": "flax", "Equinox": "equinox", "Haiku": "haiku"}


def sections(repository):
  """The page's opening, and its sections by their titles."""
  opening, *rest = re.split(r"(?m)^## ", (repository / "docs" / "frameworks.md").read_text())
  return opening, {text.partition("\n")[0]: text for text in rest}


@pytest.mark.parametrize("title", MODULES)
def test_examples_of_the_section(repository, title):
  pytest.importorskip(MODULES[title], reason="pip install 'jax_robust[frameworks]'")
  opening, by_title = sections(repository)
  assert set(by_title) == set(MODULES)
  test = doctest.DocTestParser().get_doctest(opening + by_title[title], {}, title, None, None)
  result = doctest.DocTestRunner(optionflags=FLAGS).run(test)
  assert result.attempted >= 10
  assert result.failed == 0
