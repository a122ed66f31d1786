"""Attacks on a net with several exits, each aimed at several rules: the points of an evaluation.

A gradient attack is one compiled step for each aim, driven from the host: step size, momentum and
radius are data, so that FGSM, PGD, BIM and MIM of any length share a program.
"""

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import attacks, losses
from jax_robust.attacks.autoattack.versions import STAGES, VERSIONS, Settings, Stage
from jax_robust.attacks.classes import is_finite
from jax_robust.attacks.non_finite import half_way_back
from jax_robust.attacks.pgd_steps import make_move
from jax_robust.early_exit import early_exit
from jax_robust.errors import check_name
from jax_robust.evaluate.evaluators import is_correct
from jax_robust.nets.exits import select_exit
from jax_robust.types import LogitsFn, fold


class FirstOrder(NamedTuple):
  """A gradient attack, the steps in units of eps."""

  num_steps: int
  step: float = 0.25
  random_start: bool = False
  momentum: float = 0.0
  loss: str = "cross_entropy"


FIRST_ORDER = {
  "fgsm": FirstOrder(1, step=1.0),
  "pgd_20": FirstOrder(20, random_start=True),
  "pgd_100": FirstOrder(100, random_start=True),
  "bim": FirstOrder(10),
  "mim": FirstOrder(10, momentum=1.0),
  "cw_linf": FirstOrder(100, random_start=True, loss="cw"),
}
"""With steps of eps / 4, 2/255 at 8/255, as the papers' evaluations have them."""

SEARCHES = ("autoattack", "square")
"""Attacks on one answer, driven from the host; they leave an image at their first success there."""

APART = ("cw_l2",)
"""Attacks that belong to no eps: their points are never counted."""

ATTACKS = (*FIRST_ORDER, *APART, *SEARCHES)

AIMS = ("exits", "average", "max_average", "mean", "deployed")
"""What may be aimed at: each exit by itself; the average loss; the points at the exits, of which
the one of largest average loss is kept; the log of the mean softmax; the exit that is taken."""

TWICE = "at twice eps"
"""What the check is called that looks whether a larger radius breaks more."""


class Options(NamedTuple):
  """What an evaluation by attacks is made of.

  Attributes:
    attacks: names of `ATTACKS`.
    aims: names of `AIMS`.
    thresholds: of the deployed rule, one for each exit but the last.
    eps: radius, in l-infinity.
    max_steps: most steps of any gradient attack; 0 leaves them as they are.
    num_queries: of Square, also in AutoAttack.
    version: of AutoAttack.
    seed: of all randomness.
  """

  attacks: Sequence[str]
  aims: Sequence[str]
  thresholds: Sequence[float]
  eps: float
  max_steps: int = 0
  num_queries: int = 5000
  version: str | Sequence[str] = "standard"
  seed: int = 0

  @property
  def num_exits(self) -> int:
    """Of the net."""
    return len(self.thresholds) + 1

  def budget(self, attempt: str) -> dict[str, Any]:
    """What an attempt may spend, as far as it is an option."""
    attack = _attack_of(attempt)
    found: dict[str, Any] = {} if attack == "square" else {"max_steps": self.max_steps}
    if attack in SEARCHES:
      found["num_queries"] = self.num_queries
    return {**found, **({"version": self.version} if attack == "autoattack" else {})}

  def steps(self, count: int) -> int:
    """A number of steps, at most `max_steps`."""
    return min(count, self.max_steps) if self.max_steps else count


def rules(thresholds: Sequence[float]) -> dict[str, Callable[[LogitsFn], LogitsFn]]:
  """The rules of decision: each exit, the ensembles of exits 0 to k, the deployed rule.

  >>> list(rules((0.5, 0.5)))
  ['exit 0', 'exit 1', 'exit 2', 'mean:1', 'mean:2', 'deployed']
  """
  num_exits = len(thresholds) + 1
  found: dict[str, Callable] = {
    f"exit {k}": functools.partial(select_exit, exit=k) for k in range(num_exits)
  }
  for k in range(1, num_exits):
    found[f"mean:{k}"] = functools.partial(select_exit, exit=f"mean:{k}")
  return {**found, "deployed": functools.partial(early_exit, thresholds=tuple(thresholds))}


def aims_of(attack: str, options: Options) -> list[str]:
  """What an attack is aimed at: rules by their names, 'average' and 'max_average'.

  The average loss is no loss of one answer, which searches and `cw_l2` need.
  """
  every = [f"exit {k}" for k in range(options.num_exits)]
  named = {"exits": every, "mean": [f"mean:{options.num_exits - 1}"]}
  aims = [aim for name in options.aims for aim in named.get(name, [name])]
  return [aim for aim in aims if attack in FIRST_ORDER or aim != "average"]


def check_options(options: Options) -> None:
  """Raises ValueError for an attack or aim that is none, one that lacks what it is made of, or
  where an attack, or the evaluation, is left without a point that is counted."""
  for key, values, known in (
    ("attacks", options.attacks, ATTACKS), ("aims", options.aims, AIMS)
  ):  # fmt: skip
    if not values or len(set(values)) < len(values):
      raise ValueError(f"{key}={tuple(values)}: expected one or several, each once")
    for value in values:
      check_name(key, value, known)
  if "max_average" in options.aims and "exits" not in options.aims:
    raise ValueError("aims has 'max_average', whose points are those at the exits: add 'exits'")
  if idle := [name for name in options.attacks if not aims_of(name, options)]:
    raise ValueError(
      f"attacks={tuple(idle)} need one answer to aim at, and aims={tuple(options.aims)} has only "
      "the average loss: add 'exits', 'mean' or 'deployed', or leave these attacks out"
    )
  if set(options.attacks) <= set(APART):
    raise ValueError(
      f"attacks={tuple(options.attacks)} belong to no eps, so that none is left to count: add one "
      f"of {', '.join(name for name in ATTACKS if name not in APART)}"
    )
  attacks.make_stages(options.version, "linf")


def attempts(options: Options) -> list[str]:
  """What is run: the attacks, and the first with several steps once more at twice eps, a check."""
  check = next((name for name in _CHECKED if name in options.attacks), None)
  return [*options.attacks, *([f"{check} {TWICE}"] if check else [])]


_CHECKED = ("pgd_20", "pgd_100", "bim", "mim", "fgsm")


def points(attempt: str, options: Options) -> list[str]:
  """The names of the points that an attempt makes of an image, `ATTEMPT, AIM`, in their order."""
  return [f"{attempt}, {aim}" for aim in aims_of(_attack_of(attempt), options)]


def _attack_of(attempt: str) -> str:
  """The attack that an attempt is."""
  return attempt.removesuffix(f" {TWICE}")


def is_counted(point: str) -> bool:
  """Whether a point decides about robustness: inside the ball, and no mere check."""
  attack = point.split(", ")[0]
  return attack not in APART and not attack.endswith(TWICE)


def make_points(
  make_outputs_fn: Callable[..., LogitsFn], weights: Any, options: Options, *, batch_size: int
) -> Callable[[str, np.ndarray, np.ndarray, Any], Iterator[np.ndarray]]:
  """Builds `found(attempt, x, labels, keys)`, which yields the points of an attempt, aim after aim.

  Args:
    make_outputs_fn: `(*weights) -> outputs_fn` of all exits.
    weights: its arguments, which are no part of compiled programs.
    options: see there.
    batch_size: rows of a batch of AutoAttack and Square.

  Returns:
    A function of one of `attempts`, images `[n, ...]`, labels `[n]` and typed keys `[n]`.
  """
  first_order = _make_first_order(make_outputs_fn, weights, options)
  of_one = _make_of_one_answer(make_outputs_fn, weights, options, batch_size)

  @jax.jit
  def keep_largest(weights, there, labels, keys):
    return attacks.largest_average(make_outputs_fn(*weights), there, labels, keys)

  def found(attempt, x, labels, keys):
    attack, at_exits = _attack_of(attempt), []
    eps = min(2 * options.eps, 1.0) if attempt.endswith(TWICE) else options.eps
    own = fold(keys, np.uint32(zlib.crc32(attack.encode())))
    for aim in aims_of(attack, options):
      if aim == "max_average":
        x_adv = np.asarray(keep_largest(weights, at_exits, labels, own))
      elif attack in FIRST_ORDER:
        x_adv = first_order(attack, aim, x, labels, own, eps)
      else:
        x_adv = of_one(attack, aim, x, labels, own, eps)
      if aim.startswith("exit "):
        at_exits.append(x_adv)
      yield x_adv

  return found


def _loss(name: str):
  """Cross entropy, or the margin up to 50, of all exits on average."""
  if name == "cross_entropy":
    return losses.over_exits(losses.cross_entropy)
  return losses.over_exits(lambda z, labels: -jax.nn.relu(50.0 - losses.margin(z, labels)))


def _make_first_order(make_outputs_fn, weights, options: Options):
  """`run(attack, aim, x, labels, keys, eps) -> x_adv`: a compiled step an aim and loss."""
  known = {**rules(options.thresholds), "average": lambda outputs_fn: outputs_fn}

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def step(aim, loss_name, weights, x, labels, state, numbers):
    eps, size, momentum = numbers
    ball, (x_adv, velocity) = attacks.linf_ball(eps), state
    logits_fn, loss_fn = known[aim](make_outputs_fn(*weights)), _loss(loss_name)

    def loss_at(x_adv):
      outputs = logits_fn(x_adv)
      return jnp.sum(loss_fn(outputs, labels)), is_finite(outputs)

    gradient, finite = jax.grad(loss_at, has_aux=True)(x_adv)
    moved, velocity = make_move(ball, size, None, 1, momentum)[1](gradient, velocity, x_adv, 0)
    return half_way_back(~finite, x_adv, ball.project(moved, x), x), velocity

  @jax.jit
  def start(keys, x, eps):
    ball = attacks.linf_ball(eps)
    return ball.project(x + ball.sample(keys, x), x)

  def run(attack, aim, x, labels, keys, eps):
    one = FIRST_ORDER[attack]
    x, labels = jnp.asarray(x), jnp.asarray(labels)
    numbers = tuple(map(np.float32, (eps, one.step * eps, one.momentum)))
    x_adv = start(keys, x, np.float32(eps)) if one.random_start else x
    state = x_adv, jnp.zeros_like(x)
    for _ in range(options.steps(one.num_steps)):
      state = step(aim, one.loss, weights, x, labels, state, numbers)
    return np.asarray(state[0])

  return run


def _make_of_one_answer(make_outputs_fn, weights, options: Options, batch_size: int):
  """`run(attack, aim, x, labels, keys, eps) -> x_adv` of the attacks that need one answer."""
  known = rules(options.thresholds)

  @functools.cache
  def evaluate(attack, aim):
    logits_fn = known[aim](make_outputs_fn(*weights))
    return attacks.make_autoattack(
      logits_fn, norm="linf", version=_stages(attack, options), batch_size=batch_size
    )

  def run(attack, aim, x, labels, keys, eps):
    if attack == "cw_l2":
      # 100 steps at c = 1 without a search, as in the tables of fast adversarial training.
      whole = 0.999 * float(np.sqrt(np.prod(x.shape[1:])))
      found = attacks.cw_l2(
        known[aim](make_outputs_fn(*weights)), jnp.asarray(x), jnp.asarray(labels), keys,
        ball=attacks.l2_ball(whole), num_steps=options.steps(100), num_searches=1, initial_c=1.0,
      )  # fmt: skip
      return np.asarray(found)
    ball = attacks.linf_ball(eps)
    return evaluate(attack, aim)(x, labels, keys, ball=ball, check=False).x_adv

  return run


def _stages(attack: str, options: Options) -> tuple[Stage, ...] | Sequence[str] | str:
  """What AutoAttack runs: its version within the options' budgets, or Square alone."""
  if attack == "square":
    names, settings = ("square",), Settings(num_restarts=1)
  elif isinstance(options.version, str):
    names, settings = VERSIONS[options.version]
  else:
    names, settings = tuple(options.version), Settings()
  settings = settings._replace(
    num_steps=options.steps(settings.num_steps), num_queries=options.num_queries
  )
  return tuple(STAGES[name](settings) for name in names)


def make_correct(
  make_outputs_fn: Callable[..., LogitsFn], weights: Any, thresholds: Sequence[float]
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Builds `correct(x, labels) -> [n, rules], [n]`: which rules of `rules` classify images
  correctly, and whether the logits of all exits are finite.

  One pass of the net; logits that are NaN make a rule wrong.
  """
  known = rules(thresholds)

  @jax.jit
  def flags(weights, x, labels):
    outputs = make_outputs_fn(*weights)(x)
    answers = [rule(lambda x: outputs)(x) for rule in known.values()]
    flags = jnp.stack([is_correct(logits, labels) for logits in answers], axis=1)
    return flags, is_finite(outputs)

  return lambda x, labels: jax.device_get(flags(weights, jnp.asarray(x), jnp.asarray(labels)))
