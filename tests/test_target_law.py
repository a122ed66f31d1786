"""One law for losses, objectives and evaluators: their targets, logits, images, keys and sigmas."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import assert_all_refused
from unchecked import as_a_user  # noqa: F401

from jax_robust import attacks, errors, losses, objectives
from jax_robust.evaluate import diagnostics, evaluators, scoring
from jax_robust.types import Progress, as_key, as_keys

pytestmark = pytest.mark.fast

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)), jnp.float32)  # b = k
LABELS = np.array([0, 4, 2, 1, 3])
ONE_HOT = np.eye(5, dtype=np.float32)[LABELS]

ALL_LOSSES = {
  **losses.LOSSES,
  "over_exits": losses.over_exits(losses.margin),
  "targeted_dlr": lambda outputs, targets: losses.targeted_dlr(outputs, targets, (LABELS + 1) % 5),
  "slowdown_loss": lambda outputs, targets: losses.slowdown_loss(weight=1.0)(
    (outputs, outputs) if hasattr(outputs, "dtype") else outputs, targets
  ),
  "of_all_exits": losses.over_exits(losses.of_all_exits(losses.margin)),
  "goals": lambda outputs, goals: losses.targeted_dlr(outputs, (LABELS + 1) % 5, goals),
}
every_loss = pytest.mark.parametrize("name", ALL_LOSSES)


@every_loss
def test_targets_of_every_form_give_one_loss(name):
  expected = ALL_LOSSES[name](LOGITS, jnp.asarray(LABELS))
  assert expected.shape == (5,)
  forms = (LABELS.astype(np.uint8), LABELS.tolist(), LABELS[:, None], ONE_HOT,
           ONE_HOT.astype(bool), ONE_HOT.astype(np.int8), ONE_HOT.tolist())  # fmt: skip
  for targets in forms:
    np.testing.assert_allclose(ALL_LOSSES[name](LOGITS, targets), expected, rtol=1e-6)


def test_small_integers_do_not_wrap_around():
  logits = jnp.zeros((1, 600)).at[0, 300].set(5.0).at[0, 44].set(1.0)
  assert float(losses.margin(logits, np.array([44], np.uint8))[0]) == 4.0


BAD_TARGETS = {
  "floats": (LABELS * 1.0, r"shape \(5,\) and dtype float64: expected integer labels"),
  "too few": (LABELS[:3], r"shape \(3,\) .*one for each of 5 images"),
  "too large": (LABELS + 1, "labels 5 of images 1 are outside 0 to 4"),
  "negative": (LABELS - 1, "labels -1 of images 0 are outside 0 to 4"),
  "other classes": (np.eye(6)[LABELS], r"probabilities \[b, 5\], of the classes"),
  "masked": (np.ma.masked_array(LABELS, LABELS == 2), "are a masked array, whose mask"),
  "no probabilities": (LOGITS, "are no probabilities"),
  "nan": (ONE_HOT * np.nan, "are no probabilities"),
}
BAD_LOGITS = {
  "one": (LOGITS[:, :1], r"stack\(\[-z, z\], axis=1\)"),
  "a vector": (LOGITS[:, 0], r"stack\(\[-z, z\], axis=1\)"),
  "integers": (LOGITS.astype(int), "expected floating-point logits"),
  "bools": (LOGITS > 0, "expected floating-point logits"),
  "complex": (LOGITS * 1j, "expected floating-point logits"),
  "a map": (LOGITS[:, :, None], r"expected logits \[b, k\]"),
  "a dict": ({"logits": LOGITS}, r"model\(x\)\['logits'\]"),
  "features": ((LOGITS, LOGITS[:, :2]), r"lambda x: model\(x\)\[0\]"),
}


@every_loss
def test_bad_targets_are_refused(name):
  assert_all_refused(BAD_TARGETS, lambda targets: ALL_LOSSES[name](LOGITS, targets))


@every_loss
def test_bad_logits_are_refused(name):
  loss = lambda outputs: ALL_LOSSES[name](outputs, LABELS)  # noqa: E731
  assert_all_refused(BAD_LOGITS, loss)
  assert_all_refused(BAD_LOGITS, lambda outputs: jax.eval_shape(loss, outputs))


# Keys.

KEY = jax.random.key(3)


def test_seeds_and_raw_keys_are_keys():
  for rng in (3, np.int64(3), jnp.uint32(3), jax.random.PRNGKey(3), np.asarray([0, 3], np.uint32)):
    assert as_key(rng) == KEY
    assert np.all(as_keys(rng, 2) == as_keys(KEY, 2))
  several = jax.random.split(KEY, 2)
  assert np.all(as_keys(jax.random.key_data(several), 2) == several)
  assert np.all(as_keys(np.asarray(jax.random.key_data(several)), 2) == several)
  assert np.all(as_keys(several, 2) == several)
  assert jax.jit(lambda raw: as_key(raw) == KEY)(jax.random.PRNGKey(3))
  assert jax.jit(lambda seed: as_key(seed) == KEY)(3)


@pytest.mark.parametrize("rng", [None, 1.5, True, "0", np.zeros(2), np.arange(4), [0, 3], 1j])
def test_what_is_no_key_is_refused(rng):
  for function in (as_key, lambda rng: as_keys(rng, 2)):
    with pytest.raises(TypeError, match=r"expected a key, jax\.random\.key\(0\).*will do too"):
      function(rng)


def test_a_wrong_number_of_keys_is_refused():
  for rng in (jax.random.split(KEY, 3), jax.random.split(jax.random.PRNGKey(0), 3)):
    with pytest.raises(ValueError, match="one for each of 2 images"):
      as_keys(rng, 2)
    with pytest.raises(ValueError, match="expected one"):
      as_key(rng)


# Noise.


@pytest.mark.parametrize(
  ("sigma", "message"),
  [
    (64, "did you mean 64/255 = 0.25"),
    (12.75, "sigma=12.75: expected at most 5.*12.75/255 = 0.05"),
    (5000, r"expected at most 5, in units of \[0, 1\]$"),
    (None, "sigma=None: expected the standard deviation"),
    ("0.25", "sigma='0.25': expected the standard deviation"),
    (True, "sigma=True"),
    (1j, "sigma=1j"),
    (np.array([0.25, 0.5]), "sigma=array"),
    (np.float32(0), "sigma=.*0.0"),
  ],
)
def test_a_sigma_of_other_units_is_refused(sigma, message):
  errors.check_sigma(5.0)
  errors.check_sigma(jnp.float32(0.25))
  jax.jit(lambda sigma: errors.check_sigma(sigma) or sigma)(64.0)
  with pytest.raises(ValueError, match=message):
    errors.check_sigma(sigma)


# Objectives and evaluators.

WEIGHT = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)), jnp.float32)
X = np.random.default_rng(2).uniform(0, 1, (5, 2, 2, 1)).astype(np.float32)


def linear(x):
  return (x.reshape(len(x), -1) - 0.5) @ WEIGHT


def apply_fn(params, model_state, x, *, train, rng=None):
  return (x.reshape(len(x), -1) - 0.5) @ params, model_state


ATTACK = functools.partial(attacks.fgsm, ball=attacks.linf_ball(0.1))
OBJECTIVES = {
  "standard": {},
  "adversarial": {"attack": ATTACK},
  "trades": {"attack": functools.partial(ATTACK, loss_fn=losses.kl_divergence)},
  "gaussian": {"sigma": 0.25},
  "grad_align": {"eps": 0.1},
  "stability": {"sigma": 0.25},
  "smoothadv": {"sigma": 0.25, "method": "pgd", "num_steps": 1},
  "consistency": {"sigma": 0.25},
  "macer": {"sigma": 0.25, "num_noise_vec": 2},
  "multi_exit": {"attack": ATTACK, "penalties": (0.0,)},
  "smoothmix": {"sigma": 0.25, "num_steps": 1},
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def objective(name, x=X, targets=ONE_HOT, rng=KEY, **changes):
  function = functools.partial(objectives.OBJECTIVES[name], **{**OBJECTIVES[name], **changes})
  batch = {"image": x, "target": targets}
  return function(apply_fn, WEIGHT, {}, batch, rng, Progress(0, 0.0))[0]


def loss_of(name, **given):
  return float(objective(name, **given))


def test_every_objective_is_in_the_table():
  assert {*OBJECTIVES, "denoising"} == set(objectives.OBJECTIVES)  # which has no targets


@every_objective
def test_objectives_take_every_form_of_targets_and_keys(name):
  other_forms = {"targets": LABELS.tolist(), "rng": jax.random.PRNGKey(3)}
  loss, same = jax.jit(lambda: (objective(name), objective(name, **other_forms)))()
  assert float(loss) > 0.01 and float(same) == pytest.approx(float(loss))


BAD = {
  "float labels": ({"targets": LABELS * 1.0}, r"shape \(5,\) and dtype float64"),
  "labels": ({"targets": LABELS + 1}, "labels 5 of images 1"),
  "length": ({"targets": LABELS[:3]}, "one for each of 5 images"),
  "bytes": ({"x": (255 * X).astype(np.uint8)}, "x has dtype uint8"),
  "0 to 255": ({"x": 255 * X}, r"leave \[0, 1\]"),
  "nan": ({"x": X * np.nan}, "are not finite"),
  "key": ({"rng": None}, "rng is None"),
  "keys": ({"rng": jax.random.split(KEY, 3)}, "one for each of 5 images"),
}


@every_objective
def test_bad_batches_are_refused(name):
  rows = BAD
  if name == "standard":  # draws nothing
    rows = {row: bad for row, bad in BAD.items() if "rng" not in bad[0]}
    assert np.isfinite(loss_of(name, rng=None))
  assert_all_refused(rows, lambda given: loss_of(name, **given))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@every_objective
def test_objectives_refuse_images_of_half_precision(name, dtype):
  with pytest.raises(TypeError, match=r"x has dtype b?float16: expected float32.*model\.dtype"):
    loss_of(name, x=jnp.asarray(X, dtype))


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if "sigma" in OBJECTIVES[name]])
def test_objectives_refuse_a_sigma_of_other_units(name):
  with pytest.raises(ValueError, match="sigma=64: .*did you mean 64/255"):
    loss_of(name, sigma=64)


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    ("grad_align", {"eps": 8}, "eps=8: .*did you mean 8/255"),
    ("grad_align", {"eps": np.full(5, 0.1)}, r"eps has shape \(5,\): expected one radius"),
    ("grad_align", {"lbd": float("inf")}, "lbd=inf: expected a finite number"),
    ("grad_align", {"lbd": "1"}, "lbd='1': expected a number"),
    ("grad_align", {"lbd": np.ones(2)}, r"lbd has shape \(2,\): expected one number"),
    ("grad_align", {"loss_fn": "margin"}, "loss_fn='margin': expected a function"),
    ("trades", {"beta": -6.0}, "beta=-6.0: expected a finite number of at least 0"),
    ("trades", {"attack": "fgsm"}, "attack='fgsm': expected a function"),
    ("adversarial", {"attack": "fgsm"}, "attack='fgsm': expected a function"),
    ("macer", {"margin": -1.0}, "margin=-1.0: expected a finite number of at least 0"),
    ("multi_exit", {"penalties": [0.1, float("nan")]}, "penalties=nan: expected a finite number"),
    ("multi_exit", {"penalties": [float("inf")]}, "penalties=inf: expected a finite number"),
    ("multi_exit", {"penalties": 0.1}, "penalties=0.1: expected a list"),
    ("multi_exit", {"penalties": ["a"]}, "penalties=.*: expected numbers"),
    ("multi_exit", {"clean_weight": float("inf")}, "clean_weight=inf: expected a finite number"),
    ("multi_exit", {"clean_weight": None}, "clean_weight=None: expected a number"),
    ("multi_exit", {"attack": "fgsm"}, "attack='fgsm': expected a function"),
    ("multi_exit", {"loss_fn": lambda z, y: z[0, 0]}, "one number for each example"),
  ],
)
def test_objectives_refuse_options_that_are_none(name, changes, message):
  with pytest.raises((TypeError, ValueError), match=message):
    loss_of(name, **changes)


def test_penalties_may_be_an_array_and_eps_traced():
  assert loss_of("multi_exit", penalties=np.array([0.0])) == loss_of("multi_exit")
  found = jax.jit(lambda eps: objectives.OBJECTIVES["grad_align"](
    apply_fn, WEIGHT, {}, {"image": X, "target": ONE_HOT}, KEY, Progress(0, 0.0), eps=eps
  )[0])(0.1)  # fmt: skip
  assert float(found) == pytest.approx(loss_of("grad_align"), rel=1e-5)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"eps": 8}, "eps=8: .*did you mean 8/255"),
    ({"eps": np.full(5, 0.1)}, r"eps has shape \(5,\): expected one radius"),
    ({"num_replays": None}, "num_replays=None: expected a whole number"),
    ({"step_size": lambda step: 0.1}, "step_size=.*: expected a number"),
    ({"step_size": np.ones(2)}, r"step_size has shape \(2,\): expected one number"),
  ],
)
def test_free_training_refuses_options_that_are_none(changes, message):
  with pytest.raises((TypeError, ValueError), match=message):
    objectives.UPDATES["free"].updates_per_batch(**changes)


@pytest.mark.parametrize("num_rows", [1, 4])
def test_free_training_refuses_a_carry_of_another_batch(num_rows):
  update = objectives.UPDATES["free"].make_update(
    apply_fn,
    prepare_batch=lambda state, raw: types.SimpleNamespace(batch=raw),
    apply_gradients=None,
  )
  carry = objectives.UPDATES["free"].init_carry(X.shape[1:], num_rows)
  with pytest.raises(ValueError, match="perturbations of shape .* expected one for each row"):
    update(types.SimpleNamespace(carry=carry), {"image": X, "target": ONE_HOT})
  with pytest.raises(TypeError, match="x has dtype float16: expected float32"):
    update(types.SimpleNamespace(carry=carry), {"image": X.astype(np.float16), "target": ONE_HOT})


EVALUATORS = {
  "clean": {},
  "attacked": {
    "attack": lambda eps: functools.partial(attacks.fgsm, ball=attacks.linf_ball(eps)),
    "eps": 0.1,
  },
  "noisy": {"sigma": 0.25},
}
_ATTACKED = EVALUATORS["attacked"]
DIAGNOSTICS = {
  "clean_exits": {},
  "attacked_exits": _ATTACKED,
  "feature_distance": _ATTACKED,
  "gradient_alignment": _ATTACKED,
}
OPTIONS = {**EVALUATORS, **DIAGNOSTICS}
ATTACKED = tuple(name for name, options in OPTIONS.items() if "attack" in options)
every_evaluator = pytest.mark.parametrize("name", OPTIONS)
every_attacked = pytest.mark.parametrize("name", ATTACKED)


def with_features(logits_fn):
  """The net as one of one block."""

  @functools.wraps(logits_fn)
  def blocks(x):
    return (x,), logits_fn(x)

  return blocks


def correct(name, logits_fn=linear, x=X, targets=LABELS, rng=KEY, **changes):
  """The verdicts, or all columns of a diagnosis, `[columns, b]`."""
  model = with_features(logits_fn) if name == "feature_distance" else logits_fn
  found = diagnostics.KNOWN[name](model, x, targets, rng, **{**OPTIONS[name], **changes})
  if "correct" in found:
    return np.asarray(found["correct"])
  return np.stack([np.asarray(column, np.float32) for column in found.values()])


def test_every_evaluator_is_in_the_table():
  assert set(EVALUATORS) == set(evaluators.EVALUATORS)
  assert {*DIAGNOSTICS, "denoising_error"} == set(diagnostics.DIAGNOSTICS)  # which has none


@every_evaluator
def test_evaluators_take_every_form(name):
  expected = correct(name)
  for given in ({"targets": ONE_HOT, "rng": jax.random.PRNGKey(3)}, {"targets": LABELS.tolist()}):
    np.testing.assert_array_equal(correct(name, **given), expected)
  one = {
    "x": X[:1],
    "targets": LABELS[:1],
    "rng": jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(1)),
  }
  np.testing.assert_allclose(correct(name, **one)[..., 0], expected[..., 0], rtol=1e-5, atol=1e-6)
  noisy = lambda x, rng: linear(x)  # noqa: E731
  if name == "feature_distance":
    with pytest.raises(TypeError, match=r"blocks_fn takes \(x, rng\)"):
      correct(name, noisy)
    return
  np.testing.assert_array_equal(correct(name, noisy), expected)
  two_exits = lambda x: (-linear(x), linear(x))  # noqa: E731
  if name in ("clean", "noisy"):
    np.testing.assert_array_equal(correct(name, two_exits), expected)


@every_evaluator
def test_evaluators_refuse_what_attacks_refuse(name):
  rows = {
    row: (given, of.replace("targets", "(targets|labels)")) for row, (given, of) in BAD.items()
  }
  assert_all_refused(rows, lambda given: correct(name, **given))


@every_evaluator
def test_evaluators_refuse_what_are_no_logits(name):
  for convert, message in (
    (lambda z: z[:, :1], r"stack\(\[-z, z\]"),
    (lambda z: {"logits": z}, r"model\(x\)\['logits'\]"),
    (lambda z: (z, z[:, :2]), r"model\(x\)\[0\]"),
    (lambda z: z.astype(int), "floating-point"),
  ):
    with pytest.raises((TypeError, ValueError), match=message):
      correct(name, lambda x, convert=convert: convert(linear(x)))
  with pytest.raises(TypeError, match="close over 'train'"):
    correct(name, lambda x, train: linear(x))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"eps": 8}, r"eps=8: .*did you mean 8/255"),
    ({"eps": -0.1}, "eps=-0.1"),
    ({"eps": float("nan")}, "eps=nan"),
    ({"eps": None}, "eps=None"),
    ({"eps": np.full(2, 0.1)}, r"ball\.eps has shape \(2,\): expected one radius, or one"),
    ({"eps": np.full((2, 2, 4), 0.1)}, r"ball\.eps has shape \(2, 2, 4\)"),
    ({"attack": None}, "attack=None: expected a function of the radius"),
    ({"attack": ATTACK}, "takes other arguments: expected a function of the radius"),
    ({"attack": lambda eps: None}, r"attack\(eps\)=None: expected a function"),
    ({"attack": lambda eps: lambda f, x, y, k: x[:1]}, r"attack returned shape \(1, 2, 2, 1\)"),
    ({"attack": lambda eps: lambda f, x, y, k: x + 9}, r"leave \[0, 1\]"),
    ({"attack": lambda eps: lambda f, x, y, k: (9 * x).astype(int)}, "returned dtype int"),
    ({"attack": lambda eps: lambda f, x, y, k: None}, "returned a NoneType"),
  ],
)
@every_attacked
def test_evaluators_refuse_what_is_no_attack_or_radius(name, changes, message):
  with pytest.raises((TypeError, ValueError), match=message):
    correct(name, **changes)


@pytest.mark.parametrize("aim", [1, -2, "7", "mean", "\u00b2", "", None, True, 1.0, (0,)])
def test_what_is_no_aim_is_refused(aim):
  with pytest.raises(ValueError, match="aim=.*: (expected|did you mean)"):
    correct("attacked_exits", aim=aim)


@pytest.mark.parametrize(
  ("blocks", "message"),
  [
    (linear, "blocks_fn returned .*expected \\(features, logits\\)"),
    (lambda x: (x, linear(x)), "a tuple of"),
    (lambda x: ((), linear(x)), "one entry per block"),
    (lambda x: ((x,), linear(x), 0), "expected .features, logits."),
    (lambda x: {"features": x}, "a dict: expected"),
    (lambda x: ((x[:2],), linear(x)), r"shape \(2, 2, 2, 1\) and dtype float32 at block 0"),
    (lambda x: ((x.sum((1, 2, 3)),), linear(x)), r"features of shape \(5,\)"),
    (lambda x: ((x > 0.5,), linear(x)), "dtype bool"),
    (lambda x: ((None,), linear(x)), "dtype object"),
    (None, "blocks_fn=None: expected a function"),
  ],
)
def test_what_are_no_features_are_refused(blocks, message):
  with pytest.raises((TypeError, ValueError), match=message):
    diagnostics.feature_distance(blocks, X, LABELS, KEY, **_ATTACKED)


def test_features_of_half_precision_are_compared_in_single():
  """Their means in bfloat16 would differ by steps of .004, or by nothing."""
  single, half = (
    diagnostics.feature_distance(
      lambda x, dtype=dtype: ((x.astype(dtype).astype(jnp.bfloat16).astype(dtype),), linear(x)),
      X, LABELS, KEY, **_ATTACKED,
    )
    for dtype in (jnp.float32, jnp.bfloat16)
  )  # fmt: skip
  for name in single:
    assert half[name].dtype == jnp.float32
    np.testing.assert_array_equal(half[name], single[name])


def test_gradients_that_are_not_finite_are_no_angle_of_0():
  broken = lambda x: linear(x) + 0 * jnp.sqrt(jnp.abs(x - x)).sum((1, 2, 3))[:, None]  # noqa: E731
  found = correct("gradient_alignment", broken)
  assert np.isnan(found).any()


def test_noisy_evaluation_refuses_a_sigma_of_other_units():
  with pytest.raises(ValueError, match="sigma=64: .*did you mean 64/255"):
    correct("noisy", sigma=64)


def test_a_scorer_takes_bytes_only():
  scorer = scoring.make_scorer(lambda params, state: linear, {"clean": evaluators.clean})
  weights = scoring.Weights(None, None, jax.random.key_data(KEY), {})
  batch = {"image": X, "label": LABELS, "id": np.arange(5)}
  with pytest.raises(TypeError, match="image has dtype float32: expected uint8, 0 to 255"):
    scorer(weights, batch)
  assert scorer(weights, {**batch, "image": (255 * X).astype(np.uint8)})["clean"].shape == (5,)
