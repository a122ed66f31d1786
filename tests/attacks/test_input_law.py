"""One law for what attacks are called with: a table of good and bad arguments times all attacks.

A new attack adds its row to `CALLS`. Bad ones raise before anything is compiled.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import assert_all_refused, mostly_slow
from two_exits import on_two_exits
from unchecked import as_a_user  # noqa: F401

from jax_robust import attacks, losses
from jax_robust.attacks.autoattack import STAGES, Settings
from jax_robust.attacks.entry import check_inputs
from jax_robust.nets.randomised import keyed

KEY = jax.random.key(0)
WEIGHT = jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), jnp.float32)
X = np.random.default_rng(1).uniform(0.2, 0.8, (3, 2, 2, 3)).astype(np.float32)


def linear(x):
  return (x.reshape(len(x), -1) - 0.5) @ WEIGHT.astype(x.dtype)


LABELS = np.asarray(jnp.argmax(linear(X), axis=1))
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]

_FEW = Settings(num_steps=1, num_restarts=1)


def autoattack(logits_fn, x, targets, rng, *, ball):
  """As an attack like the others."""
  stages = [STAGES["apgd-ce"](_FEW)]
  return attacks.autoattack(
    logits_fn, x, targets, rng, ball=ball, version=stages, check=False, batch_size=4
  ).x_adv


def transferred(logits_fn, x, targets, rng, *, ball):
  """A transfer attack, the surrogate being what the row is about."""
  return attacks.transfer(functools.partial(attacks.fgsm, ball=ball), logits_fn)(
    linear, x, targets, rng
  )


def universal(attack):
  """A universal perturbation, added to the images that it was made on."""

  def attacked(logits_fn, x, targets, rng, *, ball, **options):
    delta = attack(logits_fn, x, targets, rng, ball=ball, num_steps=1, unroll=1, **options)
    if attack is attacks.class_universal_slowdown:
      delta = delta[losses.as_labels(targets)]
    return ball.project(x + delta.reshape(-1, *x.shape[1:]), jnp.asarray(x))

  return on_two_exits(attacked)


CALLS = {
  **{name: functools.partial(attacks.ATTACKS[name]) for name in ("fgsm", "rs_fgsm", "n_fgsm")},
  **{
    name: functools.partial(attacks.ATTACKS[name], num_steps=1, unroll=1)
    for name in ("pgd", "bim", "mim", "cw_linf")
  },
  "multi_targeted": functools.partial(
    attacks.multi_targeted, num_targets=1, num_steps=1, num_restarts=1
  ),
  "cw_l2": functools.partial(attacks.cw_l2, num_steps=1, num_searches=1),
  "ddn": functools.partial(attacks.ddn, num_steps=2),
  "apgd": functools.partial(attacks.apgd, num_steps=1),
  "apgd_targeted": functools.partial(attacks.apgd_targeted, num_steps=1, num_targets=1),
  "fab": functools.partial(attacks.fab, num_steps=1),
  "fab_targeted": functools.partial(attacks.fab_targeted, num_steps=1, num_targets=1),
  "square": functools.partial(attacks.square, num_queries=1),
  "slowdown": on_two_exits(functools.partial(attacks.slowdown, num_steps=1, unroll=1)),
  "universal_slowdown": universal(attacks.universal_slowdown),
  "class_universal_slowdown": universal(attacks.class_universal_slowdown),
  "aimed": on_two_exits(attacks.aimed(attacks.fgsm, "mean")),
  "max_average": on_two_exits(attacks.max_average(attacks.fgsm)),
  "autoattack": autoattack,
  "transfer": transferred,
}
"""Every attack with the least work."""

NEED_L2 = ("cw_l2", "ddn")
MINIMUM_NORM = (*NEED_L2, "fab", "fab_targeted")
PER_PIXEL = ("fgsm", "rs_fgsm", "n_fgsm", "pgd", "bim", "mim", "cw_linf", "apgd", "apgd_targeted",
             "slowdown", "transfer", "aimed", "max_average")  # fmt: skip
ONE_RADIUS = ("autoattack", "universal_slowdown", "class_universal_slowdown")
ONLY_32 = (*MINIMUM_NORM, "autoattack")

VARIANTS = ("rs_fgsm", "n_fgsm", "bim", "mim", "cw_linf", "apgd_targeted", "fab_targeted",
            "slowdown", "class_universal_slowdown", "aimed", "max_average")  # fmt: skip
"""They hand their arguments to another attack of the table."""

every_attack = pytest.mark.parametrize("name", CALLS)
KINDS = [name for name in CALLS if name not in VARIANTS]
each_kind_of_attack = pytest.mark.parametrize("name", mostly_slow(CALLS, *KINDS))


def make_ball(name, eps=0.1):
  return (attacks.l2_ball if name in NEED_L2 else attacks.linf_ball)(eps)


def call(name, logits_fn=linear, x=X, targets=LABELS, rng=KEY, **options):
  options.setdefault("ball", make_ball(name))
  return np.asarray(CALLS[name](logits_fn, x, targets, rng, **options))


def test_every_attack_is_in_the_table():
  assert set(attacks.ATTACKS) <= set(CALLS)


@pytest.mark.parametrize(
  "name",
  mostly_slow(CALLS, *KINDS[::2], thorough=KINDS[1::2]),
)
def test_all_forms_of_the_arguments_give_the_same_result(name):
  expected = call(name, x=jnp.asarray(X), targets=jnp.asarray(LABELS))
  found = call(name, x=X, targets=ONE_HOT.astype(np.int8), rng=jax.random.PRNGKey(0))
  np.testing.assert_array_equal(found, expected)


FORMS = [
  *(LABELS.astype(dtype) for dtype in (np.int8, np.uint8, np.int16, np.int64, np.uint32)),
  LABELS.tolist(),
  tuple(LABELS.tolist()),
  LABELS[:, None],
  jnp.asarray(LABELS),
]


@pytest.mark.parametrize("targets", [*FORMS, ONE_HOT.astype(bool), ONE_HOT.tolist(), ONE_HOT])
def test_targets_of_every_form_become_one(targets):
  found = check_inputs("pgd", linear, X, targets, KEY, attacks.linf_ball(0.1)).targets
  is_one_hot = np.ndim(targets) == 2 and np.shape(targets)[1] == 4
  assert found.dtype == (jnp.float32 if is_one_hot else jnp.int32)
  np.testing.assert_array_equal(found, ONE_HOT if is_one_hot else LABELS)
  np.testing.assert_array_equal(losses.as_labels(targets), LABELS)


def test_bools_are_labels_of_two_classes():
  assert losses.as_labels(np.array([True, False])).tolist() == [1, 0]


def one_logit(x):
  return linear(x)[:, :1]


def output(convert):
  """A model whose logits are made into something else."""
  return lambda x: convert(linear(x))


class Output:
  """What libraries of language models return."""

  def __init__(self, logits):
    self.logits = logits


BAD_TARGETS = {
  "floats": (LABELS.astype(np.float32), r"shape \(3,\) and dtype float32: .*astype\(int\)"),
  "float list": (LABELS.astype(float).tolist(), r"shape \(3,\) and dtype float64"),
  "float column": (LABELS[:, None] * 1.0, r"shape \(3, 1\) and dtype float64"),
  "too few": (LABELS[:2], r"shape \(2,\) and dtype .*: .*one for each of 3 images"),
  "scalar": (LABELS[0], r"shape \(\)"),
  "3-d": (ONE_HOT[None], r"shape \(1, 3, 4\)"),
  "words": (np.array(["a", "b", "c"]), "dtype <U1"),
  "complex": (ONE_HOT * 1j, "dtype complex"),
  "masked": (np.ma.masked_array(LABELS, True), "are a masked array"),
  "too large": (np.array([0, 4, 1]), "labels 4 of images 1 are outside 0 to 3"),
  "negative": (np.array([0, 1, -1]), "labels -1 of images 2 are no classes, which count from 0"),
  "wraps in int32": (np.array([0, 2**32, 1]), "labels 4294967296 of images 1"),
  "other classes": (np.eye(5)[LABELS], r"shape \(3, 5\) .*probabilities \[b, 4\]"),
  "logits": (np.asarray(linear(X)), "images .* are no probabilities"),
  "nan": (ONE_HOT * np.nan, "are no probabilities"),
  "two hot": (ONE_HOT.astype(int) + 1, "are no probabilities"),
}
BAD_IMAGES = {
  "integers": ((255 * X).astype(np.uint8), "x has dtype uint8: .*astype.*/ 255"),
  "0 to 255": (255 * X, r"leave \[0, 1\]"),
  "normalised": (X * 4 - 2, r"leave \[0, 1\]"),
  "nan": (np.where(X > 0.7, np.nan, X), "holds nan"),
  "complex": (X * 1j, "x has dtype complex64"),
  "masked": (np.ma.masked_array(X, True), "x is a MaskedArray"),
  "none": (X[:0], "at least 1"),
  "a vector": (X[0, 0, 0], r"of one image, x\[None\]"),
  "one image": (X[0], r"one for each of 2 images; of one image, x\[None\]"),
  "a list": (X.tolist(), "x is a list: expected an array"),
}
BAD_KEYS = {
  "None": (None, r"rng is None: expected a key, jax\.random\.key\(0\)"),
  "float": (1.5, "rng is 1.5: expected a key"),
  "bool": (True, "rng is True: expected a key"),
  "floats": (np.zeros(2, np.float32), r"array of shape \(2,\) and dtype float32"),
  "too few": (jax.random.split(KEY, 2), "expected one key, or one for each of 3 images"),
  "too few, raw": (jax.random.split(jax.random.PRNGKey(0), 2), "one for each of 3 images"),
  "integers": (np.arange(3), r"array of shape \(3,\) and dtype int64"),
}
BAD_MODELS = {
  "sigmoid [b, 1]": (one_logit, r"one logit per image.*jnp\.stack\(\[-z, z\], axis=1\)"),
  "sigmoid [b]": (lambda x: linear(x)[:, 0], r"stack\(\[-z, z\], axis=1\)"),
  "logits and features": (lambda x: (linear(x), x), r"a tuple of .*lambda x: model\(x\)\[0\]"),
  "logits and state": (lambda x: (linear(x), {}), r"lambda x: model\(x\)\[0\]"),
  "a dict": (output(lambda z: {"logits": z}), r"a dict: .*model\(x\)\['logits'\]"),
  "another dict": (output(lambda z: {"out": z}), r"model\(x\)\['out'\]"),
  "an object": (output(Output), r"an? Output: .*model\(x\)\.logits"),
  "a list": (output(lambda z: [z]), "a list"),
  "nothing": (lambda x: None, "a NoneType"),
  "classes": (output(lambda z: jnp.argmax(z, 1)), "expected logits|stack"),
  "integers": (output(lambda z: z.astype(int)), "dtype int32: expected floating-point logits"),
  "bools": (output(lambda z: z > 0), "dtype bool: expected floating-point"),
  "complex": (output(lambda z: z * 1j), "dtype complex64: expected floating-point"),
  "other batch": (lambda x: linear(x)[:-1] if len(x) > 1 else jnp.zeros((2, 4)), "expected logits"),
  "pixels": (lambda x: x, "expected logits"),
  "(x, train)": (lambda x, train: linear(x), r"lambda x: model\(x, train=\.\.\.\)"),
  "(x, mask)": (lambda x, mask: linear(x), r"takes \(x, mask\): .*close over 'mask'"),
  "(params, x)": (lambda params, x: linear(x), r"lambda x: model\(params, x\)"),
  "(x, rng, train)": (lambda x, rng, train: linear(x), "close over 'train'"),
  "(x, *, rng)": (lambda x, *, rng: linear(x), r"lambda x, rng: model\(x, rng=rng\)"),
}
BAD_EPS = {
  "8": (8, r"eps=8: .*did you mean 8/255 = 0\.03"),
  "negative": (-0.1, "eps=-0.1: expected a finite radius"),
  "nan": (float("nan"), "eps=nan"),
  "inf": (float("inf"), "eps=inf"),
  "complex": (1j, "eps=1j: expected a radius"),
  "text": ("8/255", "eps='8/255': expected a radius"),
  "None": (None, "eps=None: expected a radius"),
  "bool": (True, "eps=True: expected a radius"),
  "array of 8": (jnp.full(3, 8.0), r"did you mean 8/255"),
  "array with nan": (np.array([0.1, np.nan, 0.1]), "eps=nan"),
  "negative array": (jnp.float32(-1), "eps=-1.0"),
  "another length": (np.full(2, 0.1), r"ball\.eps has shape \(2,\): expected one radius, or one"),
  "another image": (np.full((2, 2, 4), 0.1), r"ball\.eps has shape \(2, 2, 4\)"),
}


BAD_ARGUMENTS = {
  "targets": BAD_TARGETS,
  "x": BAD_IMAGES,
  "rng": BAD_KEYS,
  "logits_fn": BAD_MODELS,
}


@pytest.mark.parametrize("argument", BAD_ARGUMENTS)
@every_attack
def test_bad_arguments_are_refused(name, argument):
  def call_with(value):
    given = {argument: value}
    if argument == "x" and np.shape(value) == (2, 2, 3):
      given["targets"] = LABELS[:1]
    call(name, **given)

  called = "labels" if name == "autoattack" else "targets"
  rows = {
    row: (value, message.replace("targets", called))
    for row, (value, message) in BAD_ARGUMENTS[argument].items()
  }
  assert_all_refused(rows, call_with)


@every_attack
def test_bad_radii_are_refused(name):
  rows = BAD_EPS
  if name in NEED_L2:  # only in linf is a large radius none
    rows = {row: bad for row, bad in BAD_EPS.items() if "/255" not in bad[1]}
  assert_all_refused(rows, lambda eps: call(name, ball=make_ball(name, eps)))


@every_attack
def test_what_is_no_ball_is_refused(name):
  with pytest.raises(TypeError, match=r"ball=0.03: expected a ball, such as attacks\.linf_ball"):
    call(name, ball=0.03)


@each_kind_of_attack
def test_a_radius_per_pixel_is_kept_or_refused(name):
  eps = np.zeros((1, 2, 2, 3), np.float32)
  eps[0, 0] = 0.1
  if name not in PER_PIXEL:
    with pytest.raises(ValueError, match=r"ball.eps has shape \(1, 2, 2, 3\): "):
      call(name, ball=make_ball(name, eps))
    return
  x_adv = call(name, ball=attacks.linf_ball(eps[0]))
  np.testing.assert_array_equal(x_adv[:, 1], X[:, 1])
  assert np.all(np.abs(x_adv - X)[:, 0].max((1, 2)) > 0.02)
  if name != "n_fgsm":
    assert np.all(np.abs(np.float64(x_adv) - X) <= eps * (1 + 1e-6))
  np.testing.assert_array_equal(x_adv, call(name, ball=attacks.linf_ball(eps)))


@each_kind_of_attack
def test_a_radius_per_image_is_kept_or_refused(name):
  eps = np.array([0.0, 0.05, 0.1], np.float32)
  if name in ONE_RADIUS:
    with pytest.raises(ValueError, match="a ball of one radius"):
      call(name, ball=make_ball(name, eps))
  else:
    x_adv = call(name, ball=make_ball(name, eps))
    np.testing.assert_array_equal(x_adv[0], X[0])
  with pytest.raises(ValueError, match=r"shape \(2,\)|one radius"):
    call(name, ball=make_ball(name, eps[:2]))


@pytest.mark.parametrize(
  ("name", "dtype"),
  mostly_slow(
    [*((name, jnp.bfloat16) for name in CALLS), ("pgd", jnp.float16), ("apgd", jnp.float16)],
    lambda name, dtype: name not in VARIANTS,
  ),
)
def test_low_precision_is_kept_in_the_ball_or_refused(name, dtype):
  x, eps = jnp.asarray(X, dtype), 8 / 255
  if name in ONLY_32:
    with pytest.raises(TypeError, match=f"x has dtype {x.dtype}: .*compares distances"):
      call(name, x=x, ball=make_ball(name, eps))
    return
  run = functools.partial(CALLS[name], linear, targets=LABELS, rng=KEY, ball=attacks.linf_ball(eps))
  x_adv = jax.jit(lambda x: run(x=x))(x)
  assert x_adv.dtype == dtype
  delta = np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)
  assert np.all(np.abs(delta).reshape(3, -1).max(1) > eps / 2)
  if name != "n_fgsm":
    assert np.abs(delta).max() <= eps * (1 + 1e-6)
  assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(
  ("ball", "order"),
  [
    (attacks.linf_ball(8 / 255), np.inf),
    (attacks.l2_ball(0.5), 2),
    (attacks.l2_ball(0.5, exact=True), 2),
    (attacks.l1_ball(12.0), 1),
  ],
  ids=["linf", "l2", "l2_exact", "l1"],
)
def test_projections_hold_in_float64_for_the_numbers_that_are_returned(dtype, ball, order):
  draw = np.random.default_rng(2)
  x = jnp.asarray(draw.random((8, 3072)), dtype)
  x = x.at[:, :20].set(0).at[:, 20:40].set(1)
  x_adv = x + jnp.asarray(draw.normal(size=x.shape), dtype)
  z = jax.jit(ball.project)(x_adv, x)
  assert z.dtype == dtype and z.min() >= 0 and z.max() <= 1
  distance = np.linalg.norm(np.float64(z) - np.float64(x), ord=order, axis=1)
  assert np.all(distance <= ball.eps * (1 + 1e-6))
  assert np.all(distance >= ball.eps * (0.4 if dtype == jnp.bfloat16 else 0.7))
  still = attacks.linf_ball(0.0).project(x_adv, x)
  np.testing.assert_array_equal(np.float64(still), np.float64(x))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["pgd", "apgd", "multi_targeted", "square", "autoattack"])
def test_a_ball_that_holds_all_images_is_warned_of(name):
  with pytest.warns(UserWarning, match=r"ball\.eps=128 is larger than the box.*128/255 meant") as w:
    call(name, ball=attacks.l2_ball(128))
  assert w[0].filename == __file__
  if name != "pgd":
    return
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    call(name, ball=attacks.l2_ball(2.0))


@pytest.mark.thorough
@pytest.mark.parametrize("name", MINIMUM_NORM)
def test_minimum_norm_attacks_take_any_radius(name):
  more = {"num_steps": 10, "initial_c": 100.0, "learning_rate": 0.1} if name == "cw_l2" else {}
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    x_adv, nearest = (call(name, ball=attacks.l2_ball(eps), **more) for eps in (128, 64))
  np.testing.assert_array_equal(x_adv, nearest)
  assert x_adv.min() >= 0 and x_adv.max() <= 1
  assert np.linalg.norm((x_adv - X).reshape(3, -1), axis=1).max() > 0.01


@pytest.mark.parametrize("name", ["rng", "rngs", "key", "dropout_key"])
def test_a_key_with_a_default_is_left_at_it(name):
  """Such a model works without a key; it is drawn from where a wrapper hands it one."""
  model = {
    "rng": lambda x, rng=None: drawn(x, rng), "rngs": lambda x, rngs=None: drawn(x, rngs),
    "key": lambda x, key=None: drawn(x, key),
    "dropout_key": lambda x, dropout_key=None: drawn(x, dropout_key),
  }[name]  # fmt: skip
  keys = jax.random.split(KEY, 3)
  np.testing.assert_array_equal(keyed(model)(X, keys), linear(X))
  asked = keyed(lambda x, rng: model(x, rng))(X, keys)
  assert np.all(np.abs(asked - linear(X)).max(axis=1) > 0.1)


def drawn(x, rng):
  """The linear net, with noise on its logits where it gets a key."""
  return linear(x) if rng is None else linear(x) + jax.random.normal(rng, (len(x), 4))


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("pgd", {"step_size": -0.1}, "step_size=-0.1: expected a finite number of at least 0"),
    ("pgd", {"step_size": float("nan")}, "step_size=nan"),
    ("pgd", {"step_size": "2/255"}, "step_size='2/255'"),
    ("pgd", {"step_size": np.ones(2)}, r"step_size has shape \(2,\): expected one number, or one"),
    ("mim", {"momentum": np.ones(2)}, r"momentum has shape \(2,\): .* for each of 3 images"),
    ("n_fgsm", {"noise_scale": np.ones(2)}, r"noise_scale has shape \(2,\)"),
    (
      "pgd",
      {"start": (255 * X).astype(np.uint8)},
      "start has dtype uint8: expected",
    ),
    ("pgd", {"start": X.tolist()}, "start is a list: expected floating-point"),
    ("pgd", {"num_steps": None}, "num_steps=None: expected a whole number, at least 0"),
    ("pgd", {"num_steps": float("inf")}, "num_steps=inf: expected a whole number"),
    ("pgd", {"loss_fn": "margin"}, "loss_fn='margin': expected a function, such as losses.margin"),
    ("pgd", {"loss_fn": lambda z, y: losses.margin(z, y).mean()}, r"loss_fn returned shape \(\)"),
    ("slowdown", {"weight": -1.0}, "weight=-1.0: expected a finite number of at least 0"),
    ("slowdown", {"weight": None}, "weight=None: expected a number"),
    ("slowdown", {"weight": np.ones(2)}, r"weight has shape \(2,\): .* for each of 3 images"),
    ("slowdown", {"weight": np.ones((3, 1))}, r"weight has shape \(3, 1\)"),
    ("slowdown", {"weight": 1.0, "answer_fn": None}, "answer_fn=None: expected a function"),
    ("slowdown", {"weight": 1.0, "answer_fn": lambda z: z}, "a tuple of 2 exits"),
    ("slowdown", {"weight": 1.0, "loss_fn": lambda z, y: losses.margin(z, y).mean()}, "one number"),
    ("universal_slowdown", {"step_size": -0.1}, "step_size=-0.1: expected"),
    ("universal_slowdown", {"step_size": None}, "step_size=None: expected a number"),
    ("universal_slowdown", {"step_size": np.ones(3)}, r"step_size has shape \(3,\): .*of one size"),
    ("class_universal_slowdown", {"step_size": "2/255"}, "step_size='2/255'"),
    ("class_universal_slowdown", {"targets": (LABELS, LABELS)}, "targets are a tuple of 2 arrays"),
    ("max_average", {"targets": (LABELS, LABELS)}, "targets are a tuple of 2 arrays"),
    ("pgd", {"targets": (LABELS, LABELS)}, "tuple of 2 arrays, one for each exit: .* has 1 exits"),
    ("pgd", {"start": X[:2]}, r"start has shape \(2, 2, 2, 3\): expected that of x"),
    (
      "apgd",
      {"ball": attacks.linf_ball(np.full((2, 2, 3), 0.1)), "large_radii": True},
      "without large_radii",
    ),
    ("apgd", {"start": X[:2]}, r"start has shape \(2, 2, 2, 3\): expected that of x"),
    ("fgsm", {"step_size": -1}, "step_size=-1"),
    ("n_fgsm", {"noise_scale": -1.0}, "noise_scale=-1.0"),
    ("mim", {"momentum": float("nan")}, "momentum=nan"),
    ("ddn", {"step_size": -0.1}, "step_size=-0.1"),
    ("ddn", {"initial_norm": float("nan")}, "initial_norm=nan"),
    ("cw_l2", {"learning_rate": -0.1}, "learning_rate=-0.1"),
    ("cw_l2", {"initial_c": 0.0}, "initial_c=0.0"),
    ("multi_targeted", {"step_size": -0.1}, "step_size=-0.1"),
    ("pgd", {"unroll": 0}, "unroll=0: expected a whole number, at least 1"),
    ("mim", {"unroll": True}, "unroll=True: expected"),
    ("slowdown", {"unroll": 1.5}, "unroll=1.5: expected"),
    ("apgd", {"rho": 2}, "rho=2: expected a share, 0 to 1"),
    ("apgd_targeted", {"rho": float("nan")}, "rho=nan: expected a share"),
    ("square", {"p_init": "x"}, "p_init='x': expected"),
    ("cw_linf", {"confidence": float("nan")}, "confidence=nan: expected a finite number"),
    (
      "cw_linf",
      {"confidence": np.ones(2)},
      r"confidence has shape \(2,\): .* for each of 3 images",
    ),
    ("cw_l2", {"confidence": -1.0}, "confidence=-1.0: expected a finite number"),
    ("cw_l2", {"confidence": np.ones(2)}, r"confidence has shape \(2,\): .* for each of 3 images"),
    ("ddn", {"gamma": np.array([0.1, 7.0, 0.1])}, "gamma=.*7.0.*: expected a probability"),
    ("ddn", {"gamma": np.full(2, 0.1)}, r"gamma has shape \(2,\): .* for each of 3 images"),
    ("ddn", {"loss_fn": "dlr"}, "loss_fn='dlr': expected a function"),
    ("apgd_targeted", {"num_targets": 1.5}, "num_targets=1.5: expected a whole number"),
    ("multi_targeted", {"num_targets": True}, "num_targets=True: expected a whole number"),
  ],
)
def test_steps_that_are_none_are_refused(name, options, message):
  with pytest.raises((TypeError, ValueError), match=message):
    call(name, **options)


BALL = attacks.linf_ball(0.1)
LARGEST = functools.partial(attacks.largest_average, linear, targets=LABELS, rng=KEY)
AVERAGE = functools.partial(attacks.max_average(lambda f, x, y, rng: x[:1]), linear)


@pytest.mark.parametrize(
  ("run", "message"),
  [
    (lambda: attacks.aimed("fgsm", 0), "attack='fgsm': expected a function, such as functools"),
    (lambda: attacks.aimed(attacks.fgsm, "first"), "exit='first': expected a number, 'last'"),
    (lambda: attacks.aimed(attacks.fgsm, None), "exit=None: expected a number"),
    (lambda: attacks.aimed(attacks.fgsm, True), "exit=True: expected a number"),
    (
      lambda: attacks.aimed(attacks.fgsm, 7)(linear, X, LABELS, KEY, ball=make_ball("")),
      "to 0, the",
    ),
    (
      lambda: attacks.aimed(attacks.fgsm, lambda f: 3)(linear, X, LABELS, KEY),
      "rule.*=3: expected",
    ),
    (lambda: attacks.max_average(None), "attack=None: expected a function"),
    (
      lambda: attacks.max_average(attacks.fgsm, loss_fn="dlr"),
      "loss_fn='dlr': expected a function",
    ),
    (lambda: AVERAGE(X, LABELS, KEY), r"attack returned shape \(1, 2, 2, 3\): expected that of x"),
    (lambda: LARGEST([]), "points is an empty list: expected a list of arrays"),
    (lambda: LARGEST(None), "points is a NoneType"),
    (lambda: LARGEST(X), "points is a ndarray"),
    (lambda: LARGEST([X, X[:, :1]]), r"returned shape \(3, 1, 2, 3\): expected that of x"),
    (lambda: LARGEST([X, 255 * X]), r"images 0, 1, 2 leave \[0, 1\]"),
    (
      lambda: LARGEST([(255 * X).astype(np.uint8)]),
      "returned dtype uint8: expected floating-point",
    ),
    (lambda: LARGEST([X[0]]), "one for each of 2 images; of one image"),
    (lambda: LARGEST([X[:0]]), "at least 1"),
  ],
)
def test_attacks_on_exits_refuse_what_is_no_attack_exit_or_point(run, message):
  with pytest.raises((TypeError, ValueError), match=message):
    run()


EVALUATE = functools.partial(attacks.make_autoattack, norm="linf", version=("apgd-ce",))


@pytest.mark.parametrize(
  ("run", "message"),
  [
    (lambda: attacks.fgsm("net", X, LABELS, KEY, ball=BALL), "logits_fn='net': expected a func"),
    (lambda: attacks.transfer("fgsm", linear), "attack='fgsm': expected a function"),
    (lambda: attacks.transfer(attacks.fgsm, None), "surrogate_fn=None: expected a function"),
    (lambda: EVALUATE(None), "logits_fn=None: expected a function"),
    (lambda: EVALUATE(linear, norm="l7"), "norm='l7': expected one of 'l1'"),
    (lambda: EVALUATE(linear, batch_size=0), "batch_size=0: expected a whole number"),
    (lambda: EVALUATE(linear, batch_size=2.5), "batch_size=2.5: expected a whole number"),
    (lambda: EVALUATE(linear, devices=3), r"devices=3: expected nets\.devices\.Devices"),
    (lambda: EVALUATE(linear, version=None), "version=None: expected a name, or a list"),
    *(
      (lambda ids=ids: EVALUATE(linear)(X, LABELS, KEY, ball=BALL, ids=ids), message)
      for ids, message in (
        ([0, 0, 1], "expected each id once"),
        ([0.0, 1.0, 2.0], "dtype float64: expected 3 integers"),
        ([-1, 0, 1], r"ids from -1 to 1: expected 0 to 2\^32 - 1"),
        ([2**40, 1, 2], "ids from 1 to 1099511627776"),
        ([0, 1], r"ids have shape \(2,\)"),
      )
    ),
  ],
)
def test_what_is_no_model_or_evaluation_is_refused(run, message):
  with pytest.raises((TypeError, ValueError), match=message):
    run()


def test_numbers_of_exits_may_be_those_of_numpy():
  run = lambda k: attacks.aimed(attacks.fgsm, k)(linear, X, LABELS, KEY, ball=BALL)  # noqa: E731
  np.testing.assert_array_equal(run(np.int64(0)), run(0))


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({0: 0.1, 5: -0.1}, "step_size=-0.1"),
    ({0: 0.1, 1.5: 0.1}, "first step of step_sizes=1.5: expected a whole number"),
    ({"0": 0.1, "-1": 0.1}, "first step of step_sizes='-1'"),
    ({"0": "x"}, "step_size='x': expected a number"),
    (0.1, "step_sizes=0.1: expected {first step: size}"),
  ],
)
def test_step_sizes_of_a_schedule_are_checked(sizes, message):
  with pytest.raises((TypeError, ValueError), match=message):
    attacks.adam(sizes)


def test_whole_numbers_may_be_written_as_floats():
  np.testing.assert_array_equal(
    call("apgd", num_steps=1.0, num_restarts=1.0, eot=1.0), call("apgd")
  )
  np.testing.assert_array_equal(call("pgd", num_restarts=1.0, unroll=1.0), call("pgd"))


class Net:
  """A model that is an object, with a switch that has a default."""

  def __call__(self, x, train=False):
    return linear(x)


@pytest.mark.parametrize(
  "model",
  [
    Net(),
    lambda x, rng=None: linear(x),
    lambda x, *, train=False: linear(x),
    functools.partial(lambda x, train: linear(x), train=False),
    jax.jit(linear),
    lambda x, dropout_rng: linear(x),
    lambda x, prng_key: linear(x),
    lambda x, key, train=False: linear(x),
  ],
)
def test_models_of_these_forms_work(model):
  np.testing.assert_array_equal(call("bim", model), call("bim"))


def test_values_are_not_looked_at_under_jit_but_shapes_are():
  @jax.jit
  def traced(x, labels, eps):
    return attacks.fgsm(linear, x, labels, KEY, ball=attacks.linf_ball(eps))

  assert traced(X + 9, LABELS + 9, 8.0).shape == X.shape
  for arguments, message in (
    ((X, LABELS * 1.0, 0.1), r"shape \(3,\) and dtype float32"),
    ((X, LABELS[:2], 0.1), "one for each of 3 images"),
    ((X, LABELS, np.full(2, 0.1)), r"ball.eps has shape \(2,\)"),
    ((X.astype(int), LABELS, 0.1), "x has dtype int32"),
  ):
    with pytest.raises((TypeError, ValueError), match=message):
      traced(*arguments)
