"""What AutoAttack runs: its stages by name, and the versions as lists of names."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from jax_robust import losses
from jax_robust.attacks.apgd_search import apgd_search
from jax_robust.attacks.fab_search import fab_search
from jax_robust.attacks.multi_targeted import multi_targeted_search
from jax_robust.attacks.square_search import square_search
from jax_robust.attacks.stepwise import Search
from jax_robust.errors import check_name, shown


class Stage(NamedTuple):
  """One attack of an evaluation.

  Attributes:
    name: in results and logs.
    searches: each with its number of restarts; together they are the attack.
    num_targets: wrong classes that a targeted attack tries, 0 for an untargeted one.
    min_classes: the least number of classes that it works with.
    num_dims: of an image, how many axes it works with; None for any.
  """

  name: str
  searches: tuple[tuple[Search, int], ...]
  num_targets: int = 0
  min_classes: int = 2
  num_dims: tuple[int, ...] | None = None

  @property
  def takes_gradients(self) -> bool:
    """Whether the model must have a derivative."""
    return any(search.num_backward != 0 for search, _ in self.searches)


class Settings(NamedTuple):
  """What the versions differ in besides their attacks; the defaults are the reference's."""

  num_steps: int = 100
  num_restarts: int = 5
  num_targets: int = 9
  num_queries: int = 5000
  eot: int = 1
  large_radii: bool = False


def _apgd_search(loss_fn, settings: Settings) -> Search:
  """APGD on a loss of outputs, labels and goals."""
  return apgd_search(
    loss_fn, num_steps=settings.num_steps, eot=settings.eot, large_radii=settings.large_radii
  )


def _apgd(name: str, loss_fn, min_classes: int, settings: Settings) -> Stage:
  """APGD with restarts."""
  search = _apgd_search(lambda outputs, labels, goals: loss_fn(outputs, labels), settings)
  return Stage(name, ((search, settings.num_restarts),), min_classes=min_classes)


def _apgd_targeted(settings: Settings) -> Stage:
  """APGD towards one class after the other."""
  search = _apgd_search(losses.targeted_dlr, settings)
  return Stage("apgd-t", ((search, 1),), settings.num_targets, min_classes=4)


def _fab(settings: Settings) -> Stage:
  """FAB from x, then from random points."""
  first, others = (
    fab_search(num_steps=settings.num_steps, targeted=False, random_start=random_start)
    for random_start in (False, True)
  )
  restarts = ((others, settings.num_restarts - 1),) if settings.num_restarts > 1 else ()
  return Stage("fab", ((first, 1), *restarts))


def _fab_targeted(settings: Settings) -> Stage:
  """FAB towards one class after the other."""
  search = fab_search(num_steps=settings.num_steps, targeted=True)
  return Stage("fab-t", ((search, 1),), settings.num_targets)


def _square(settings: Settings) -> Stage:
  """Random search with square windows."""
  search = square_search(num_queries=settings.num_queries)
  return Stage("square", ((search, 1),), num_dims=(1, 2, 3))


def _multi_targeted(settings: Settings) -> Stage:
  """PGD on the margin to one class after the other; ten restarts of 200 steps."""
  search = multi_targeted_search(num_steps=2 * settings.num_steps)
  return Stage("mt", ((search, 2 * settings.num_restarts),), settings.num_targets)


STAGES: dict[str, Callable[[Settings], Stage]] = {
  "apgd-ce": functools.partial(_apgd, "apgd-ce", losses.cross_entropy, 2),
  "apgd-dlr": functools.partial(_apgd, "apgd-dlr", losses.dlr, 3),
  "apgd-t": _apgd_targeted,
  "fab": _fab,
  "fab-t": _fab_targeted,
  "square": _square,
  "mt": _multi_targeted,
}
"""The attacks that a version may name."""

_Attack = TypeVar("_Attack", str, Stage, str | Stage)

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")

VERSIONS = {
  "standard": (STANDARD, Settings(num_restarts=1)),
  "plus": (("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"), Settings()),
  "rand": (("apgd-ce", "apgd-dlr"), Settings(num_restarts=1, eot=20)),
  "aa+mt": ((*STANDARD, "mt"), Settings(num_restarts=1)),
}
"""The versions by name: their attacks in order, and their settings."""


def read_version(version: str | Sequence[_Attack]) -> str | tuple[str, ...] | tuple[_Attack, ...]:
  """A version's name as it is, or the attacks that are named in its place: 'apgd-ce, square'.

  >>> read_version("standard"), read_version("square"), read_version("apgd-ce, square")
  ('standard', ('square',), ('apgd-ce', 'square'))
  """
  if not isinstance(version, str):
    return tuple(version)
  names = tuple(name.strip() for name in version.split(",") if name.strip())
  return names if len(names) != 1 or names[0] in STAGES else version


def make_stages(version: str | Sequence[str | Stage], norm: str) -> tuple[Stage, ...]:
  """The stages of a version, or those named, in order.

  Args:
    version: one of `VERSIONS`; or names of `STAGES`, in a list or as 'apgd-ce, square', which run
      with five restarts as the reference's `custom` does; or stages with other settings, or of
      your own, such as `STAGES["apgd-ce"](Settings(num_steps=1000))`.
    norm: of the ball; `standard` has other settings in l1.

  Raises:
    TypeError: neither a name nor a list.
    ValueError: an unknown name, with the near miss; no attack, or one twice.
  """
  if not isinstance(version, (str, list, tuple)):
    raise TypeError(f"version={shown(version)}: expected a name, or a list of attacks")
  version = read_version(version)
  if isinstance(version, str):
    check_name("version", version, {**VERSIONS, **STAGES})
    names, settings = VERSIONS[version]
    if norm == "l1" and version in ("standard", "aa+mt"):
      settings = settings._replace(num_restarts=5, num_targets=5, large_radii=True)
  else:
    names, settings = tuple(version), Settings()
  for each in names:
    if not isinstance(each, Stage):
      check_name("attack", each, STAGES)
  stages = [each if isinstance(each, Stage) else STAGES[each](settings) for each in names]
  if not stages or len({stage.name for stage in stages}) < len(stages):
    raise ValueError(f"version={version!r}: expected one or several different attacks")
  if version == "aa+mt":  # as in the papers, whose restarts are not AutoAttack's
    stages[-1] = _multi_targeted(Settings())
  return tuple(stages)
