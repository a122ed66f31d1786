"""Studies: published experiments as plans of trainings, each `(config, path) -> Finding`.

A study has no trainer of its own. What it trains goes through the jobs' loop or the library's
update; what it finds goes into one file, with what was published beside it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

STUDIES = {
  "feature_leakage": "jax_robust.studies.feature_leakage:feature_leakage",
  "constructed_sets": "jax_robust.studies.constructed_sets:constructed_sets",
  "just_bugs": "jax_robust.studies.just_bugs:just_bugs",
  "own_mistakes": "jax_robust.studies.own_mistakes:own_mistakes",
  "other_images": "jax_robust.studies.other_images:other_images",
  "two_dimensional": "jax_robust.studies.two_dimensional:two_dimensional",
}
"""What `config.study.name` may be: `module:name` of the function, by the name of the study."""

HELD, NOT_HELD, UNDECIDED = "held here", "not held here", "not decidable at this size"
ANSWERS = (HELD, NOT_HELD, UNDECIDED)


class Finding(NamedTuple):
  """What a study found.

  Attributes:
    claim: what was published, in one sentence.
    answer: one of `ANSWERS`.
    ours: our numbers, by name; nested where there are several settings.
    published: the published numbers, under the same names.
    num_seeds: how many seeds each of our numbers is from.
  """

  claim: str
  answer: str
  ours: Mapping[str, Any]
  published: Mapping[str, Any]
  num_seeds: int


def all_of(*answers: str) -> str:
  """The answer to a claim of several parts: held where all are, not held where one is not.

  >>> all_of(HELD, UNDECIDED), all_of(UNDECIDED, NOT_HELD)
  ('not decidable at this size', 'not held here')
  """
  return next((each for each in (NOT_HELD, UNDECIDED) if each in answers), HELD)
