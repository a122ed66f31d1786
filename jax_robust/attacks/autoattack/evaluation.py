"""The evaluation: AutoAttack's attacks in sequence, and which images each of them left correct."""

import time
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_robust.attacks.autoattack import guards
from jax_robust.attacks.autoattack.batches import HostKeys, in_batches, keys_of_ids, to_host
from jax_robust.attacks.autoattack.confirm import confirm, distances
from jax_robust.attacks.autoattack.programs import make_programs
from jax_robust.attacks.autoattack.survivors import attack_survivors
from jax_robust.attacks.autoattack.versions import Stage, make_stages
from jax_robust.attacks.balls import BALLS, Ball, check_ball, check_is_ball
from jax_robust.attacks.classes import likeliest_wrong
from jax_robust.attacks.entry import check_not_half
from jax_robust.attacks.non_finite import lost_points, raise_for_lost_images
from jax_robust.errors import (
  check_count,
  check_flag,
  check_images,
  check_name,
  check_targets,
  warn,
)
from jax_robust.losses import as_labels
from jax_robust.nets.constants import without_jit
from jax_robust.nets.devices import Devices, check_devices, row_count
from jax_robust.nets.randomised import keyed, takes_rng
from jax_robust.types import LogitsFn, Rng, as_ids, as_keys, typed_keys

_DRAWS = 20  # of a randomised model, as many as `rand` takes for a gradient

_SECONDS_BETWEEN_LINES = 10.0


class AutoAttackResult(NamedTuple):
  """What an evaluation found about each of n images, on the host.

  Attributes:
    clean: classified correctly without an attack.
    robust: correct, and no attack changed that.
    robust_after: the flags after each attack, by name, in order.
    x_adv: the adversarial point found, else the image, `[n, ...]`.
    pred, pred_adv: predicted class at the image and at `x_adv`.
    num_forward, num_backward: passes of the model spent on each image.
    num_lost: points of each image whose logits were NaN or infinite, which are no attacks.
    rejected: by attack, how many points it reported that the check did not confirm.
    warnings: reasons to distrust the result.
  """

  clean: Bool[np.ndarray, " n"]
  robust: Bool[np.ndarray, " n"]
  robust_after: Mapping[str, Bool[np.ndarray, " n"]]
  x_adv: Float[np.ndarray, "n *dims"]
  pred: Int[np.ndarray, " n"]
  pred_adv: Int[np.ndarray, " n"]
  num_forward: Int[np.ndarray, " n"]
  num_backward: Int[np.ndarray, " n"]
  num_lost: Int[np.ndarray, " n"]
  rejected: Mapping[str, int]
  warnings: tuple[str, ...]


def autoattack(
  logits_fn: LogitsFn,
  x: Shaped[Array | np.ndarray, "n *dims"],
  labels: Any,
  rng: Rng,
  *,
  ball: Ball,
  version: str | Sequence[str | Stage] = "standard",
  ids: Int[Array | np.ndarray, " n"] | None = None,
  batch_size: int = 128,
  devices: Devices = Devices(),
  check: bool = True,
  report: Callable[[str], None] = lambda line: None,
) -> AutoAttackResult:
  """Evaluates a classifier by AutoAttack: APGD-CE, APGD-T, FAB-T and Square, in `standard`.

  Every attack starts at the original images, and runs on those that all attacks before it left
  correct. Driven from the host: not for use under `jit`.

  Deviations from the reference (a392200), each of which leaves the flags' distribution as it is or
  makes the evaluation stricter:
    - An image is done with its first adversarial point, where the reference runs APGD and FAB to
      their end; its `x_adv` is another one.
    - Randomness belongs to the image (`ids`), not to the batch: Square draws its windows per
      image, and no result depends on batch size, order or devices.
    - Every point found is checked: in float32, inside ball and box, misclassified in a pass of its
      own. A point that fails is not an attack, and is counted in `rejected`.
    - Where the model has fewer classes than a loss needs, or images have a shape that Square has no
      windows for, that attack is left out, with a warning; where none is left, an error is raised.
    - NaN or infinite logits of an image raise an error; those of a point inside the ball are no
      attack, and are counted in `num_lost`.
    - A randomised model is scored by its mean probabilities over 20 draws, not by one pass, and its
      images are attacked to the end of a run, since one success may be chance.

  Guarantees:
    `flags_only_fall`: an image that is not robust after one attack is not robust after the next.
    `adversarial_points_are_valid`: for each broken image, distance(x_adv, x) <= eps (1 + 1e-6),
      0 <= x_adv <= 1, and `pred_adv` differs from the label.
    `independent_of_the_batch_size`: nor of the order of the images, given their ids.

  Args: those of `jax_robust.attacks`, and
    logits_fn: of one exit; anything that JAX can trace.
    labels: true classes, as `targets` of `jax_robust.attacks`.
    rng: one key, folded with the ids, or one per image.
    ball: the threat model, with one radius.
    version: 'standard', 'plus', 'rand', 'aa+mt' (with MultiTargeted, as DeepMind reports), or names
      of attacks, or stages: see `make_stages`.
    ids: names of the images for the randomness: see `types.as_ids`; by default their places.
    batch_size: rows of a batch.
    devices: how rows are spread over devices.
    check: examine the model before starting (see `guards`).
    report: called with each line of the log, which reads like AutoAttack's.

  Returns:
    The result, for every image. Its warnings are raised as `errors.RobustnessWarning` too.

  What is compiled is kept with the function: a second call with the same one, of as many images of
  the same shape, compiles nothing. Where its weights have changed it is compiled anew.

  Raises:
    ValueError: an unknown version; images outside [0, 1], labels out of range; NaN logits; several
      exits; no attack that the model's classes leave; a model without a derivative, and attacks
      that need one: `square` does not. All before the first attack.

  Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690.

  >>> import jax
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.array([[0.9, 0.1, 0.5], [0.6, 0.5, 0.5]]), jnp.array([0, 0])
  >>> result = autoattack(
  ...   lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.1), version=("apgd-ce",)
  ... )
  >>> result.robust.tolist()
  [True, False]
  """
  check_is_ball(ball)
  check_count(batch_size=batch_size)
  version = tuple(version) if isinstance(version, list) else version
  size = max(min(batch_size, *np.shape(x)[:1]), 1)
  evaluate = _kept_evaluate(logits_fn, ball.norm, version, size, devices)
  return evaluate(x, labels, rng, ball=ball, ids=ids, check=check, report=report)


def make_autoattack(
  logits_fn: LogitsFn,
  *,
  norm: str,
  version: str | Sequence[str | Stage] = "standard",
  batch_size: int = 128,
  devices: Devices = Devices(),
) -> Callable[..., AutoAttackResult]:
  """`autoattack` for one model and many sets of images or radii: what was compiled is kept.

  Every batch has `batch_size` rows, and sets of fewer images are filled up to it: choose it no
  larger than your sets.

  Guarantees:
    `compiled_once`: over any sequence of sets of at most `batch_size` images, of one shape, each
      search of an attack is compiled once.

  Args: as those of `autoattack`; `norm` is that of the balls.

  Returns:
    `evaluate(x, labels, rng, *, ball, ids=None, check=True, report=...) -> AutoAttackResult`.

  Raises:
    TypeError, ValueError: a model that is no function, or takes something else than images and a
      key; an unknown norm or version; a batch without rows; `devices` that are none. `evaluate`
      raises what `autoattack` does.
  """
  num_draws = _DRAWS if takes_rng(logits_fn) else 1
  return _make_evaluate(
    keyed(without_jit(logits_fn)), num_draws, norm, version, batch_size, devices
  )


def _make_evaluate(logits_fn, num_draws, norm, version, batch_size, devices):
  """`make_autoattack` of a model `(x, keys) -> logits`."""
  check_name("norm", norm, BALLS)
  check_count(batch_size=batch_size)
  check_devices(devices)
  stages, batch_size = make_stages(version, norm), int(batch_size)
  size = row_count(batch_size, batch_size, devices.count)
  programs_for = make_programs(
    logits_fn, stages, norm=norm, batch_size=batch_size, num_draws=num_draws, devices=devices
  )

  def evaluate(
    x, labels, rng, *, ball, ids=None, check=True, report=lambda line: None
  ) -> AutoAttackResult:
    check_flag(check=check)
    given = labels
    x, labels, keys, ids = _check(x, labels, rng, ball, norm, ids, size)
    names = ", ".join(stage.name for stage in stages)
    report(f"using {version if isinstance(version, str) else 'custom'} version including {names}.")
    programs = programs_for(x.shape[1:], x.dtype)
    check_targets(given, num_classes=programs.num_classes, name="labels")
    logits = programs.predict(x, keys)
    raise_for_lost_images(np.isfinite(logits).all(1), ids)
    images = _Images(x, labels, keys, logits, ids)
    warnings = list(programs.warnings)
    if check:
      rows = np.arange(max(size, 2)) % len(x)  # two at least, to be neighbours
      warnings[:0] = programs.check_model(
        x[rows], labels[rows], keys[rows].typed(), min(size, len(x)), version == "rand"
      )
    _warn(warnings, report)
    result = _run(images, programs, num_draws, ball, size, report)
    return result._replace(warnings=(*warnings, *result.warnings))

  return evaluate


_KEPT: Any = weakref.WeakKeyDictionary()
"""`{logits_fn: {arguments: evaluate}}`: what `autoattack` keeps, as long as the function lives."""


def _kept_evaluate(logits_fn, *arguments):
  """`_make_evaluate`, the same again for the same function and arguments."""
  try:
    weak: Any = weakref.ref(logits_fn)
    kept = _KEPT.setdefault(logits_fn, {})
    hash(arguments)
  except TypeError:  # neither every function nor every argument can be looked up
    weak, kept = (lambda: logits_fn), {}
  if arguments not in kept:
    is_randomised = takes_rng(logits_fn)
    # What is kept must not hold the function, lest it live for ever.
    model = (lambda x, rng: without_jit(weak())(x, rng)) if is_randomised else (
      lambda x: without_jit(weak())(x)
    )  # fmt: skip
    kept[arguments] = _make_evaluate(keyed(model), _DRAWS if is_randomised else 1, *arguments)
  return kept[arguments]


def _warn(lines, report):
  """Says each in the log, and as a Python warning."""
  for line in lines:
    report(f"Warning: {line}")
    warn(line)


class _Images(NamedTuple):
  """The images of an evaluation, their labels and keys, the logits at them, and their names."""

  x: np.ndarray
  labels: np.ndarray
  keys: HostKeys
  logits: np.ndarray
  ids: np.ndarray

  def take(self, rows):
    """Some of them."""
    x, labels, keys, logits, ids = self
    return _Images(x[rows], labels[rows], keys[rows], logits[rows], ids[rows])

  def of_stage(self, name, size):
    """With the keys of one attack."""
    return self._replace(keys=self.keys.fold(np.uint32(zlib.crc32(name.encode())), size))


def _check(x, labels, rng, ball, norm, ids, size):
  """Images and labels on the host, a key and a name for each; raises where an attack would."""
  check_images(x)
  check_ball("autoattack", ball, x, per_pixel=False, minimum_norm=False)
  check_not_half("autoattack", x)
  if ball.norm != norm or np.ndim(ball.eps):
    raise ValueError(f"ball={ball}: expected a ball of one radius, in {norm!r}")
  ids = as_ids(ids, len(x))
  keys = typed_keys(rng)
  keys = to_host(as_keys(keys, len(x))) if keys.ndim else keys_of_ids(keys, ids, size)
  check_targets(labels, len(x), name="labels")
  return np.asarray(x), in_batches(as_labels, (np.asarray(labels),), size), keys, ids


def _run(images, programs, num_draws, ball, size, report) -> AutoAttackResult:
  """The sequence of attacks."""
  began = time.monotonic()
  pred = np.argmax(images.logits, -1)
  clean = pred == images.labels
  robust, x_adv, pred_adv = clean.copy(), images.x.copy(), pred.copy()
  forward, backward, lost = (np.zeros(len(clean), np.int64) for _ in range(3))
  forward += num_draws
  robust_after, rejected = {}, {}
  report(f"initial accuracy: {clean.mean():.2%}")
  for stage in programs.stages:
    rejected[stage.name] = 0
    before = forward.sum(), backward.sum()
    staged = images.of_stage(stage.name, size)
    for compiled, num_restarts in programs.searches[stage.name]:
      left = np.flatnonzero(robust)
      if not left.size:
        break
      here = staged.take(left)
      goals = _goals(stage, here, num_restarts, size)
      broken = attack_survivors(
        compiled, here.x, here.labels, here.keys, goals, ball=ball, batch_size=size,
        may_shrink=len(clean) > size, report=_progress(stage.name, len(left), report),
      )  # fmt: skip
      forward[left] += compiled.search.num_forward * broken.num_steps
      backward[left] += _num_backward(compiled.search, programs) * broken.num_steps
      lost[left] += broken.num_lost
      found = np.flatnonzero(broken.found)
      seen = here.take(found)
      confirmed, guess = confirm(
        programs.predict, broken.x_adv[found], seen.x, seen.labels, seen.keys, ball, size
      )
      rejected[stage.name] += int((~confirmed).sum())
      forward[left[found]] += num_draws
      won = left[found[confirmed]]
      robust[won], x_adv[won] = False, broken.x_adv[found[confirmed]]
      pred_adv[won] = guess[confirmed]
    robust_after[stage.name] = robust.copy()
    passes = forward.sum() - before[0], backward.sum() - before[1]
    report(
      f"robust accuracy after {stage.name.upper()}: {robust.mean():.2%} (total time "
      f"{time.monotonic() - began:.1f} s, {passes[0]} forward and {passes[1]} backward passes)"
    )
  warnings = guards.check_rejected(rejected) + guards.check_square(clean, robust_after)
  warnings += [lost_points(lost, images.ids)] if lost.any() else []
  _warn(warnings, report)
  _report_end(distances(ball, x_adv, images.x, size).max(), ball, x_adv, robust, report)
  return AutoAttackResult(
    clean, robust, robust_after, x_adv, pred, pred_adv, forward, backward, lost, rejected,
    tuple(warnings),
  )  # fmt: skip


def _num_backward(search, programs):
  """Backward passes of a step."""
  return programs.num_classes if search.num_backward is None else search.num_backward


def _report_end(farthest, ball, x_adv, robust, report):
  """The last two lines of AutoAttack's log."""
  report(
    f"max {ball.norm} perturbation: {farthest:.5f}, nan in tensor: {np.isnan(x_adv).sum()}, "
    f"max: {x_adv.max():.5f}, min: {x_adv.min():.5f}"
  )
  report(f"robust accuracy: {robust.mean():.2%}")


def _goals(stage, images, num_restarts, size) -> np.ndarray:
  """The target class of each run, `[t, n]`; of an untargeted attack zeros, a row per restart."""
  if not stage.num_targets:
    return np.zeros((num_restarts, len(images.labels)), np.int32)

  def rank(logits, labels):
    return likeliest_wrong(jnp.asarray(logits), jnp.asarray(labels), stage.num_targets).T

  ranked = in_batches(rank, (images.logits, images.labels), size).T
  return np.repeat(ranked.astype(np.int32), num_restarts, axis=0)


def _progress(name, num_images, report):
  """A line of the log every ten seconds, in the words of AutoAttack's."""
  last = time.monotonic()

  def progress(done, runs, broken):
    nonlocal last
    if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
      last = time.monotonic()
      report(f"{name} - {done}/{runs} - {broken} out of {num_images} successfully perturbed")

  return progress
