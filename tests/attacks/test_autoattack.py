"""AutoAttack on nets whose robust images are known, and on nets that mislead it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import mostly_slow

from jax_robust import attacks
from jax_robust.attacks.autoattack import versions
from jax_robust.attacks.stepwise import Search

EPS = {"linf": 0.05, "l2": 0.17}
BALLS = {"linf": attacks.linf_ball, "l2": attacks.l2_ball}
NUM_CLASSES = 5


@functools.cache
def stages(*names, **settings):
  """Attacks that are as long as most tests need them; the same ones are compiled once."""
  settings = {"num_restarts": 1, "num_steps": 40, "num_queries": 300, **settings}
  return tuple(versions.STAGES[name](versions.Settings(**settings)) for name in names)


STANDARD = stages(*versions.STANDARD)
SHORT_SQUARE = stages("square", num_queries=60)
FAB = stages("fab", num_restarts=3)

ONE_SIZE = attacks.Devices(count=24)
"""Rows in multiples of 24, as for so many devices: one batch size to compile."""


def linear_problem(num_rows=24):
  """A linear net on 4 x 4 x 1 pixels far from the box, and each image's exact distances."""
  draw = np.random.default_rng(0)
  weights = draw.normal(size=(16, NUM_CLASSES)).astype(np.float32)
  x = draw.uniform(0.3, 0.7, (num_rows, 4, 4, 1)).astype(np.float32)
  logits = x.reshape(num_rows, -1) @ weights
  labels = logits.argmax(1)
  distances = {}
  for norm, dual in (("linf", 1), ("l2", 2)):
    normals = weights[:, :, None] - weights[:, None, :]
    lengths = np.linalg.norm(normals, ord=dual, axis=0) + np.eye(NUM_CLASSES)
    gaps = logits[np.arange(num_rows), labels][:, None] - logits
    gaps[np.arange(num_rows), labels] = np.inf
    distances[norm] = (gaps / lengths[labels]).min(1)
  labels[0] = (labels[0] + 1) % NUM_CLASSES  # one is wrong without an attack
  return lambda x: x.reshape(x.shape[0], -1) @ weights, x, labels, distances


@functools.cache
def evaluator(norm, version, batch_size=24, devices=ONE_SIZE):
  """The evaluation of the linear net on any images, labels and radii; what is compiled is kept."""
  run = attacks.make_autoattack(
    linear_problem()[0], norm=norm, version=version, batch_size=batch_size, devices=devices
  )
  return lambda x, labels, eps=EPS[norm], **options: run(
    x, labels, jax.random.key(0), ball=BALLS[norm](eps), check=False, **options
  )


@functools.cache
def evaluate(*arguments):
  """The evaluation of the linear net on its images; arguments are those of `evaluator`."""
  _, x, labels, _ = linear_problem()
  return evaluator(*arguments)(x, labels)


def autoattack(logits_fn, x, labels, **options):
  """The evaluation of another net, or of other labels."""
  options = {"devices": ONE_SIZE, "batch_size": 24, "check": False, **options}
  return attacks.autoattack(logits_fn, x, labels, jax.random.key(0), **options)


@pytest.mark.parametrize("norm", BALLS)
def test_linear_net_gives_the_exact_flags(norm):
  _, _, _, distances = linear_problem()
  expected = distances[norm] > EPS[norm]
  expected[0] = False
  assert np.abs(distances[norm] - EPS[norm]).min() > 1e-4  # no image hangs on rounding
  assert 5 < expected.sum() < 20
  result = evaluate(norm, STANDARD)
  np.testing.assert_array_equal(result.robust, expected)
  assert list(result.robust_after) == ["apgd-ce", "apgd-t", "fab-t", "square"]
  assert not result.clean[0] and result.clean[1:].all()
  assert result.rejected == dict.fromkeys(result.robust_after, 0)


@pytest.mark.thorough
@pytest.mark.parametrize(
  ("norm", "name"),
  mostly_slow(
    itertools.product(BALLS, ["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "mt"]),
    lambda norm, name: (norm == "linf") == (name in ("apgd-dlr", "apgd-t", "fab-t")),
  ),
)
def test_each_gradient_attack_by_itself_reaches_the_optimum(norm, name):
  standard = evaluate(norm, STANDARD)
  if name == "apgd-ce":  # the first of the standard ones: nothing else has run by then
    alone = standard.robust_after[name]
  else:
    alone = evaluate(norm, FAB if name == "fab" else stages(name)).robust
  np.testing.assert_array_equal(alone, standard.robust)


@pytest.mark.parametrize("norm", BALLS)
def test_flags_only_fall(norm):
  result = evaluate(norm, STANDARD)
  before = result.clean
  for flags in result.robust_after.values():
    assert not np.any(flags & ~before)
    before = flags
  np.testing.assert_array_equal(before, result.robust)


@pytest.mark.parametrize("norm", BALLS)
def test_adversarial_points_are_valid(norm):
  logits_fn, x, labels, _ = linear_problem()
  result = evaluate(norm, STANDARD)
  fell = result.clean & ~result.robust
  delta = (result.x_adv - x).reshape(len(x), -1).astype(np.float64)
  distance = np.linalg.norm(delta, ord={"linf": np.inf, "l2": 2}[norm], axis=1)
  assert np.all(distance[fell] <= EPS[norm] * (1 + 1e-5)) and np.all(distance[~fell] == 0)
  assert result.x_adv.min() >= 0 and result.x_adv.max() <= 1
  pred = np.asarray(logits_fn(result.x_adv)).argmax(1)
  np.testing.assert_array_equal(pred, result.pred_adv)
  np.testing.assert_array_equal(pred == labels, result.robust)


ALONE = {
  "apgd-ce": stages("apgd-ce", num_restarts=2), "fab-t": stages("fab-t"), "square": SHORT_SQUARE,
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(ALONE, "apgd-ce"))
def test_independent_of_the_batch_size(name):
  version = ALONE[name]
  _, x, labels, _ = linear_problem()
  whole = evaluate("linf", version)
  other = evaluate("linf", version, 7, attacks.Devices())
  np.testing.assert_array_equal(other.robust, whole.robust)
  np.testing.assert_allclose(other.x_adv, whole.x_adv, atol=1e-6)
  order = np.random.default_rng(1).permutation(len(x))[:9]
  some = evaluator("linf", version)(x[order], labels[order], ids=order)
  np.testing.assert_array_equal(some.robust, whole.robust[order])
  np.testing.assert_allclose(some.x_adv, whole.x_adv[order], atol=1e-6)


def test_robust_flags_never_rise_with_eps():
  _, x, labels, _ = linear_problem()
  at = functools.partial(evaluator("linf", STANDARD), x, labels)
  before = at(0.0)
  np.testing.assert_array_equal(before.robust, before.clean)
  np.testing.assert_array_equal(before.x_adv, x)
  for eps in (0.025, 0.05, 0.1, 0.4):
    after = at(eps)
    assert not np.any(after.robust & ~before.robust)
    before = after
  assert not before.robust.any()


def test_passes_are_counted_and_broken_images_rest():
  result = evaluate("linf", ("apgd-ce",))
  assert not result.num_backward[0] and result.num_forward[0] == 1  # wrong from the start
  np.testing.assert_array_equal(result.num_backward[result.robust], 5 * 101)
  fell = result.clean & ~result.robust
  assert np.all(result.num_backward[fell] < 5 * 101)
  np.testing.assert_array_equal(result.num_forward[fell], result.num_backward[fell] + 2)
  assert not evaluate("linf", SHORT_SQUARE).num_backward.any()


@pytest.mark.thorough
def test_a_pass_for_each_class_and_each_draw_is_counted():
  result = evaluate("l2", FAB)
  assert result.robust.any()
  np.testing.assert_array_equal(result.num_backward[result.robust], 3 * 40 * NUM_CLASSES)
  logits_fn, x, labels, _ = linear_problem()
  result = autoattack(
    noisy(logits_fn, 1e-6), x, labels, ball=attacks.linf_ball(1e-4),
    version=stages("apgd-ce", num_steps=5, eot=3),
  )  # fmt: skip
  draws = 20  # of the prediction before the attack
  np.testing.assert_array_equal(result.num_backward[result.robust], 3 * 6)
  np.testing.assert_array_equal(result.num_forward[result.robust], draws + 3 * 6)


def test_a_planted_adversarial_is_found():
  """An active test: class 0 everywhere but within .03 of one hidden corner of the ball."""
  x = np.full((3, 4, 4, 1), 0.5, np.float32)
  signs = np.sign(np.random.default_rng(0).normal(size=(1, 4, 4, 1))).astype(np.float32)

  def logits_fn(x):
    distance = jnp.mean(jnp.abs(x - (0.5 + 0.1 * signs)), axis=(1, 2, 3))
    low = jnp.full_like(distance, -9.0)
    return jnp.stack([jnp.full_like(distance, -0.03), -distance, low, low], axis=1)

  version = stages(*versions.STANDARD, num_steps=100, num_queries=1000)
  evaluate = attacks.make_autoattack(logits_fn, norm="linf", version=version, devices=ONE_SIZE)
  run = functools.partial(evaluate, x, np.zeros(3, np.int32), jax.random.key(0))
  found = run(ball=attacks.linf_ball(0.1))
  assert found.clean.all() and not found.robust.any()
  assert run(ball=attacks.linf_ball(0.06)).robust.all()  # the corner is out of reach


def test_square_wins_where_gradients_are_masked():
  logits_fn, x, labels, _ = linear_problem()
  lines = []
  result = autoattack(
    lambda x: logits_fn(jnp.round(x * 64) / 64), x, labels, ball=attacks.linf_ball(2 * EPS["linf"]),
    report=lines.append, version=stages("apgd-ce", "apgd-t", "square"), check=True,
  )  # fmt: skip
  # What falls to them is a random start's luck.
  assert result.robust_after["apgd-t"].sum() >= 0.75 * result.clean.sum()
  assert result.robust.sum() < 0.5 * result.clean.sum()
  text = " ".join(result.warnings)
  assert "gradient of the cross entropy is exactly zero for 24 of 24 images" in text
  assert "Square broke images that the gradient attacks had left" in text
  assert any(line.startswith("Warning: Square") for line in lines)


def noisy(logits_fn, scale):
  """A net that adds noise to its input."""
  return lambda x, rng: logits_fn(x + scale * jax.random.normal(rng, x.shape))


@pytest.mark.thorough
def test_a_randomised_net_is_evaluated_with_expectations():
  logits_fn, x, labels, distances = linear_problem()
  ball = attacks.linf_ball(2 * EPS["linf"])
  result = autoattack(noisy(logits_fn, 0.1), x, labels, ball=ball, version="rand", check=True)
  assert not any("randomised" in line for line in result.warnings)
  far, near = distances["linf"] > 3 * EPS["linf"], distances["linf"] < EPS["linf"]
  assert not result.robust[near].any()
  assert result.robust[far][1:].all() or not far[1:].any()


@pytest.mark.thorough
@pytest.mark.parametrize(("num_classes", "left_out"), [(2, "apgd-dlr, apgd-t"), (3, "apgd-t")])
def test_too_few_classes_leave_attacks_out_and_say_so(num_classes, left_out):
  logits_fn, x, labels, _ = linear_problem()
  labels = np.asarray(logits_fn(x))[:, :num_classes].argmax(1)
  result = autoattack(
    lambda x: logits_fn(x)[:, :num_classes], x, labels, ball=attacks.linf_ball(EPS["linf"]),
    version=stages("apgd-dlr", "apgd-t", "fab-t", num_steps=2),
  )  # fmt: skip
  assert f"left out for lack of classes: {left_out}" in result.warnings
  assert (
    set(result.robust_after).isdisjoint(left_out.split(", ")) and "fab-t" in result.robust_after
  )


def test_a_claim_that_does_not_hold_is_not_an_attack():
  logits_fn, x, labels, _ = linear_problem()
  honest = stages("apgd-ce", num_steps=3)[0].searches[0][0]

  def step(ball, logits_fn, state):
    state = honest.step(ball, logits_fn, state)
    outside = jnp.clip(state.problem.x + 3 * ball.eps, 0, 1)
    return state._replace(found=jnp.ones_like(state.found), x_adv=outside)

  liar = versions.Stage("liar", ((Search(honest.init, step, 3), 1),))
  result = autoattack(logits_fn, x, labels, ball=attacks.linf_ball(0.01), version=(liar,))
  np.testing.assert_array_equal(result.robust, result.clean)
  assert result.rejected == {"liar": int(result.clean.sum())}
  assert any("were not confirmed" in line for line in result.warnings)
  np.testing.assert_array_equal(result.x_adv, x)


def test_attacks_may_be_named_as_text():
  names = attacks.make_stages(("apgd-ce", "square"), "linf")
  assert [stage.name for stage in names] == ["apgd-ce", "square"]
  for text in ("apgd-ce,square", "apgd-ce, square,"):
    assert [stage.name for stage in attacks.make_stages(text, "linf")] == ["apgd-ce", "square"]
  assert [stage.name for stage in attacks.make_stages("square", "linf")] == ["square"]


def test_the_log_reads_as_autoattacks():
  logits_fn, x, labels, _ = linear_problem()
  lines = []
  autoattack(
    logits_fn, x, labels, ball=attacks.linf_ball(0.01), version=stages("apgd-ce", num_steps=2),
    report=lines.append,
  )  # fmt: skip
  assert lines[0] == "using custom version including apgd-ce."
  assert lines[1] == "initial accuracy: 95.83%"
  assert lines[2].startswith("robust accuracy after APGD-CE: ") and "(total time " in lines[2]
  assert lines[3].startswith("max linf perturbation: 0.0") and "nan in tensor: 0" in lines[3]
  assert lines[4].startswith("robust accuracy: ")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"version": "standart"}, "version='standart': did you mean 'standard'"),
    ({"version": "apgd-c"}, "version='apgd-c': did you mean 'apgd-ce'"),
    ({"version": "apgd-ce, squar"}, "attack='squar': did you mean 'square'"),
    ({"version": ","}, "expected one or several different attacks"),
    ({"version": ("apgd",)}, "attack='apgd': did you mean 'apgd-"),
    ({"version": ()}, "expected one or several different attacks"),
    ({"x": np.full((24, 4, 4, 1), 1.5, np.float32)}, r"leave \[0, 1\] or are not finite"),
    ({"x": np.full((24, 4, 4, 1), np.nan, np.float32)}, r"leave \[0, 1\] or are not finite"),
    ({"labels": np.full(24, 5)}, "labels 5, 5, .* are outside 0 to 4"),
    ({"logits_fn": lambda x: jnp.full((x.shape[0], 4), jnp.nan)}, "logits are NaN or infinite"),
    ({"ball": attacks.linf_ball(jnp.full(24, 0.1))}, "expected a ball of one radius"),
  ],
)
def test_what_can_not_be_evaluated_is_refused(change, message):
  logits_fn, x, labels, _ = linear_problem()
  arguments = {"logits_fn": logits_fn, "x": x, "labels": labels, "rng": jax.random.key(0)}
  with pytest.raises(ValueError, match=message):
    attacks.autoattack(**{**arguments, "ball": attacks.linf_ball(0.1), **change})


def test_integer_images_are_refused():
  logits_fn, x, labels, _ = linear_problem()
  with pytest.raises(TypeError, match="expected floating-point images"):
    attacks.autoattack(
      logits_fn, np.uint8(x), labels, jax.random.key(0), ball=attacks.linf_ball(0.1)
    )


@pytest.mark.slow
def test_expectations_win_where_noise_masks_the_gradient():
  logits_fn, x, labels, _ = linear_problem()

  def net(x, rng):
    noise = 2 * jax.random.normal(rng, (16, NUM_CLASSES))
    return logits_fn(x) + (x.reshape(x.shape[0], -1) - 0.5) @ noise

  robust = {}
  for eot in (1, 20):
    version = stages("apgd-ce", num_steps=25, eot=eot)
    result = autoattack(net, x, labels, ball=attacks.linf_ball(0.1), version=version, check=False)
    robust[eot] = result.robust.sum()
  assert robust[20] < 0.75 * robust[1]


def test_random_labels_leave_what_the_net_gets_right_by_chance():
  logits_fn, x, _, distances = linear_problem()
  guess = np.asarray(logits_fn(x)).argmax(1)
  labels = np.random.default_rng(5).integers(0, NUM_CLASSES, len(x))
  result = evaluator("linf", STANDARD)(x, labels)
  np.testing.assert_array_equal(result.clean, guess == labels)
  assert 0 < result.clean.sum() < 12
  np.testing.assert_array_equal(result.robust, result.clean & (distances["linf"] > EPS["linf"]))
  np.testing.assert_array_equal(result.x_adv[~result.clean], x[~result.clean])
  assert np.all(result.num_forward[~result.clean] == 1)
