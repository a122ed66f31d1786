"""What AutoAttack runs: its attacks by name, and the versions as lists of names."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax_robust import losses
from jax_robust.attacks.apgd_steps import apgd_search
from jax_robust.attacks.checks import near_miss
from jax_robust.attacks.fab import fab_search
from jax_robust.attacks.multi_targeted import multi_targeted_search
from jax_robust.attacks.square import square_search
from jax_robust.attacks.stepwise import Search


class Stage(NamedTuple):
  """One attack of an evaluation.

  Attributes:
    name: in results and logs.
    searches: with how many restarts each is run; together they are the attack.
    num_targets: wrong classes that a targeted attack tries, 0 for an untargeted one.
    min_classes: that the net must have.
  """

  name: str
  searches: tuple[tuple[Search, int], ...]
  num_targets: int = 0
  min_classes: int = 2


class Settings(NamedTuple):
  """What the versions differ in besides their attacks; the defaults are the reference's."""

  num_steps: int = 100
  num_restarts: int = 5
  num_targets: int = 9
  num_queries: int = 5000
  eot: int = 1
  large_radii: bool = False


def _untargeted(loss_fn):
  """A loss of outputs and labels in the form a search takes."""
  return lambda outputs, labels, goals: loss_fn(outputs, labels)


def _apgd(name: str, loss_fn, min_classes: int, settings: Settings) -> Stage:
  """APGD with restarts."""
  search = apgd_search(
    _untargeted(loss_fn),
    num_steps=settings.num_steps,
    eot=settings.eot,
    large_radii=settings.large_radii,
  )
  return Stage(name, ((search, settings.num_restarts),), min_classes=min_classes)


def _apgd_targeted(settings: Settings) -> Stage:
  """APGD towards one class after the other."""
  search = apgd_search(
    losses.targeted_dlr,
    num_steps=settings.num_steps,
    eot=settings.eot,
    large_radii=settings.large_radii,
  )
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
  return Stage("square", ((square_search(num_queries=settings.num_queries), 1),))


def _multi_targeted(settings: Settings) -> Stage:
  """PGD on the margin to one class after the other; ten restarts of 200 steps."""
  search = multi_targeted_search(num_steps=2 * settings.num_steps)
  return Stage("mt", ((search, 2 * settings.num_restarts),), settings.num_targets)


ATTACKS: dict[str, Callable[[Settings], Stage]] = {
  "apgd-ce": functools.partial(_apgd, "apgd-ce", losses.cross_entropy, 2),
  "apgd-dlr": functools.partial(_apgd, "apgd-dlr", losses.dlr, 3),
  "apgd-t": _apgd_targeted,
  "fab": _fab,
  "fab-t": _fab_targeted,
  "square": _square,
  "mt": _multi_targeted,
}
"""The attacks that a version may name."""

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")

VERSIONS = {
  "standard": (STANDARD, Settings(num_restarts=1)),
  "plus": (("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"), Settings()),
  "rand": (("apgd-ce", "apgd-dlr"), Settings(num_restarts=1, eot=20)),
  "aa+mt": ((*STANDARD, "mt"), Settings(num_restarts=1)),
}
"""The versions by name: their attacks in order, and their settings."""


def make_stages(version: str | Sequence[str | Stage], norm: str) -> tuple[Stage, ...]:
  """The attacks of a version, or those named, in order.

  Args:
    version: one of `VERSIONS`; or names of `ATTACKS`, which run with five restarts as the
      reference's `custom` does; or stages with other settings, or of your own, such as
      `ATTACKS["apgd-ce"](Settings(num_steps=1000))`.
    norm: of the ball; `standard` has other settings in l1.

  Raises:
    ValueError: an unknown name, with the near miss; no attack, or one twice.
  """
  if isinstance(version, str):
    if version not in VERSIONS:
      raise ValueError(f"version={version!r}: expected {near_miss(version, VERSIONS)}")
    names, settings = VERSIONS[version]
    if norm == "l1" and version in ("standard", "aa+mt"):
      settings = settings._replace(num_restarts=5, num_targets=5, large_radii=True)
  else:
    names, settings = tuple(version), Settings()
  for name in names:
    if not isinstance(name, Stage) and name not in ATTACKS:
      raise ValueError(f"version: attack {name!r}: expected {near_miss(name, ATTACKS)}")
  stages = [each if isinstance(each, Stage) else ATTACKS[each](settings) for each in names]
  if not stages or len({stage.name for stage in stages}) < len(stages):
    raise ValueError(f"version={version!r}: expected one or several different attacks")
  if version == "aa+mt":  # of the papers, whose restarts are not AutoAttack's
    stages[-1] = _multi_targeted(Settings())
  return tuple(stages)
