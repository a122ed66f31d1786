"""The evaluation: AutoAttack's attacks in sequence, and which images each of them left correct."""

import functools
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_robust.attacks.autoattack import guards
from jax_robust.attacks.autoattack.confirm import confirm, make_predict
from jax_robust.attacks.autoattack.survivors import attack_survivors, compile_search
from jax_robust.attacks.autoattack.versions import Stage, make_stages
from jax_robust.attacks.balls import Ball, check_ball
from jax_robust.attacks.classes import likeliest_wrong
from jax_robust.attacks.entry import check_not_half
from jax_robust.errors import check_images, check_targets
from jax_robust.losses import as_labels
from jax_robust.nets.constants import lift, without_jit
from jax_robust.nets.devices import Devices
from jax_robust.nets.randomised import keyed, takes_rng
from jax_robust.types import LogitsFn, Rng, as_keys, fold, typed_keys

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
    - Where the model has fewer classes than a loss needs, that attack is left out, with a warning.
    - NaN or infinite logits of an image raise an error.
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
    ids: names of the images for the randomness; by default their places.
    batch_size: rows of a batch.
    devices: how rows are spread over devices.
    check: examine the model before starting (see `guards`).
    report: called with each line of the log, which reads like AutoAttack's.

  Returns:
    The result, for every image.

  Raises:
    ValueError: an unknown version; images outside [0, 1], labels out of range; NaN logits; several
      exits.

  Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.array([[0.9, 0.1, 0.5], [0.6, 0.5, 0.5]]), jnp.array([0, 0])
  >>> result = autoattack(
  ...   lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.1), version=("apgd-ce",)
  ... )
  >>> result.robust.tolist()
  [True, False]
  """
  evaluate = make_autoattack(
    logits_fn, norm=ball.norm, version=version, batch_size=batch_size, devices=devices
  )
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

  Args: as those of `autoattack`; `norm` is that of the balls.

  Returns:
    `evaluate(x, labels, rng, *, ball, ids=None, check=True, report=...) -> AutoAttackResult`.
  """
  stages = make_stages(version, norm)
  num_draws = _DRAWS if takes_rng(logits_fn) else 1
  logits_fn = keyed(without_jit(logits_fn))

  @functools.cache
  def compiled(image_shape, dtype):
    """The searches by their stages, and `predict`, for images of one shape."""
    x, key = jax.ShapeDtypeStruct((1, *image_shape), dtype), jax.random.key(0)
    net = lift(logits_fn, x, jax.random.split(key, 1))
    searches = {
      stage.name: [
        (compile_search(each, net, devices, stop_when_found=num_draws == 1), num_restarts)
        for each, num_restarts in stage.searches
      ]
      for stage in stages
    }
    return searches, make_predict(net, batch_size=batch_size, num_draws=num_draws, devices=devices)

  def evaluate(
    x, labels, rng, *, ball, ids=None, check=True, report=lambda line: None
  ) -> AutoAttackResult:
    given = labels
    x, labels, keys = _check(x, labels, rng, ball, norm, ids)
    names = ", ".join(stage.name for stage in stages)
    report(f"using {version if isinstance(version, str) else 'custom'} version including {names}.")
    searches, predict = compiled(x.shape[1:], x.dtype)
    images = _Images(x, labels, keys, predict(x, fold(keys, 0)))
    num_classes = images.logits.shape[-1]
    check_targets(given, num_classes=num_classes, name="labels")
    warnings = []
    if check:
      few = slice(0, batch_size)
      warnings += guards.check_model(logits_fn, x[few], labels[few], keys[few], version == "rand")
    left_out = [stage.name for stage in stages if stage.min_classes > num_classes]
    if left_out:
      warnings.append(f"left out for lack of classes: {', '.join(left_out)}")
    for line in warnings:
      report(f"Warning: {line}")
    kept = [(stage, searches[stage.name]) for stage in stages if stage.name not in left_out]
    result = _run(images, kept, predict, num_draws, ball, batch_size, report)
    return result._replace(warnings=(*warnings, *result.warnings))

  return evaluate


class _Images(NamedTuple):
  """The images of an evaluation, their labels and keys, and the logits at them."""

  x: np.ndarray
  labels: np.ndarray
  keys: Array
  logits: np.ndarray


def _check(x, labels, rng, ball, norm, ids):
  """Images and labels on the host, a key for each; raises where an attack would."""
  x = x if hasattr(x, "dtype") else np.asarray(x, np.float32)
  check_images(x)
  check_ball("autoattack", ball, x, per_pixel=False, minimum_norm=False)
  check_not_half("autoattack", x)
  if ball.norm != norm or np.ndim(ball.eps):
    raise ValueError(f"ball={ball}: expected a ball of one radius, in {norm!r}")
  keys = typed_keys(rng)
  if keys.ndim == 0:
    ids = np.arange(len(x)) if ids is None else np.asarray(ids)
    if ids.shape != (len(x),):
      raise ValueError(f"ids have shape {ids.shape}: expected one for each of {len(x)} images")
    keys = _fold_ids(keys, ids)
  keys = as_keys(keys, len(x))
  return np.asarray(x), np.asarray(as_labels(labels, len(x))), keys


@jax.jit
def _fold_ids(rng, ids):
  """The keys of images: one key folded with each id."""
  return jax.vmap(jax.random.fold_in, (None, 0))(rng, ids)


def _run(images, stages, predict, num_draws, ball, batch_size, report) -> AutoAttackResult:
  """The sequence of attacks."""
  began = time.monotonic()
  pred = np.argmax(images.logits, -1)
  clean = pred == images.labels
  robust, x_adv, pred_adv = clean.copy(), images.x.copy(), pred.copy()
  forward = np.full(len(clean), num_draws, np.int64)
  backward = np.zeros(len(clean), np.int64)
  robust_after, rejected = {}, {}
  report(f"initial accuracy: {clean.mean():.2%}")
  for stage, searches in stages:
    rejected[stage.name] = 0
    before = forward.sum(), backward.sum()
    keys = fold(images.keys, np.uint32(zlib.crc32(stage.name.encode())))
    for compiled, num_restarts in searches:
      left = np.flatnonzero(robust)
      if not left.size:
        break
      here = _Images(images.x[left], images.labels[left], keys[left], images.logits[left])
      broken = attack_survivors(
        compiled, here.x, here.labels, here.keys, _goals(stage, here, num_restarts),
        ball=ball, batch_size=batch_size, report=_progress(stage.name, len(left), report),
      )  # fmt: skip
      search = compiled.search
      num_backward = here.logits.shape[-1] if search.num_backward is None else search.num_backward
      forward[left] += search.num_forward * broken.num_steps
      backward[left] += num_backward * broken.num_steps
      found = np.flatnonzero(broken.found)
      confirmed, guess = confirm(
        predict, broken.x_adv[found], here.x[found], here.labels[found], here.keys[found], ball
      )
      rejected[stage.name] += int((~confirmed).sum())
      forward[left[found]] += num_draws
      won = left[found[confirmed]]
      robust[won], x_adv[won] = False, broken.x_adv[found[confirmed]]
      pred_adv[won] = guess[confirmed]
    robust_after[stage.name] = robust.copy()
    report(
      f"robust accuracy after {stage.name.upper()}: {robust.mean():.2%} "
      f"(total time {time.monotonic() - began:.1f} s, {forward.sum() - before[0]} forward and "
      f"{backward.sum() - before[1]} backward passes)"
    )
  warnings = guards.check_rejected(rejected) + guards.check_square(clean, robust_after)
  _report_end(ball, images.x, x_adv, robust, warnings, report)
  return AutoAttackResult(
    clean, robust, robust_after, x_adv, pred, pred_adv, forward, backward, rejected, tuple(warnings)
  )


def _report_end(ball, x, x_adv, robust, warnings, report):
  """The warnings, and the last two lines of AutoAttack's log."""
  for line in warnings:
    report(f"Warning: {line}")
  farthest = ball.distance(jnp.asarray(x_adv), jnp.asarray(x)).max()
  report(
    f"max {ball.norm} perturbation: {farthest:.5f}, nan in tensor: {np.isnan(x_adv).sum()}, "
    f"max: {x_adv.max():.5f}, min: {x_adv.min():.5f}"
  )
  report(f"robust accuracy: {robust.mean():.2%}")


def _goals(stage, images, num_restarts) -> np.ndarray:
  """The target class of each run, `[t, n]`; of an untargeted attack zeros, a row per restart."""
  if not stage.num_targets:
    return np.zeros((num_restarts, len(images.labels)), np.int32)
  ranked = likeliest_wrong(
    jnp.asarray(images.logits), jnp.asarray(images.labels), stage.num_targets
  )
  return np.repeat(np.asarray(ranked, np.int32), num_restarts, axis=0)


def _progress(name, num_images, report):
  """A line of the log every ten seconds, in the words of AutoAttack's."""
  last = time.monotonic()

  def progress(done, runs, broken):
    nonlocal last
    if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
      last = time.monotonic()
      report(f"{name} - {done}/{runs} - {broken} out of {num_images} successfully perturbed")

  return progress
