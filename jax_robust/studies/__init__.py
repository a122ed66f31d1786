"""Studies: published experiments as plans of trainings, each `(config, path) -> Finding`.

A study has no trainer of its own. What it trains goes through the jobs' loop or the library's
update; what it finds goes into one file, with what was published beside it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

STUDIES = {
  "confident_mistakes": "jax_robust.studies.confident_mistakes:confident_mistakes",
  "constructed_sets": "jax_robust.studies.constructed_sets:constructed_sets",
  "feature_leakage": "jax_robust.studies.feature_leakage:feature_leakage",
  "just_bugs": "jax_robust.studies.just_bugs:just_bugs",
  "other_images": "jax_robust.studies.other_images:other_images",
  "own_mistakes": "jax_robust.studies.own_mistakes:own_mistakes",
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
