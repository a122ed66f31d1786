"""What an evaluation asks for before it runs, what it compiles; models that are only queried."""

import gc
import weakref

import jax
import jax.monitoring
import jax.numpy as jnp
import linear_net
import numpy as np
import pytest

from jax_robust import attacks
from jax_robust.attacks.autoattack import STAGES, Settings, Stage, versions
from jax_robust.attacks.stepwise import Search
from jax_robust.errors import RobustnessWarning

KEY = jax.random.key(0)
SHORT = Settings(num_steps=5, num_restarts=1, num_queries=40)
COMPILED = []


@jax.monitoring.register_event_duration_secs_listener
def count(event, duration, **_):
  """Every program that XLA compiles, the smallest too."""
  del duration
  if event == "/jax/core/compile/backend_compile_duration":
    COMPILED.append(event)


def stages(*names):
  return tuple(STAGES[name](SHORT) for name in names)


def num_compiled(call):
  """How many programs a call compiles."""
  before = len(COMPILED)
  call()
  return len(COMPILED) - before


def fresh_net(scale=1.0):
  """The linear net of four classes, as a function of its own."""
  return lambda x: scale * linear_net.linear(x)


def evaluate(logits_fn, version, num_rows=6, **options):
  x, labels = linear_net.interior(num_rows)
  ball = attacks.linf_ball(0.05)
  options = {"check": False, **options}
  return attacks.autoattack(logits_fn, x, labels, KEY, ball=ball, version=version, **options)


def test_sets_up_to_the_batch_size_compile_once():
  run = attacks.make_autoattack(
    fresh_net(), norm="linf", version=stages(*versions.STANDARD), batch_size=12
  )

  def of(num_rows, eps=0.05, first=0):
    x, labels = (np.asarray(each)[first : first + num_rows] for each in linear_net.interior(24))
    ids = np.arange(first, first + num_rows)
    return run(x, labels, KEY, ball=attacks.linf_ball(eps), ids=ids)

  whole = of(12)
  assert num_compiled(lambda: of(12, first=12)) == 0
  assert [num_compiled(lambda n=n: of(n)) for n in (7, 1, 11, 2, 12)] == [0] * 5
  assert num_compiled(lambda: of(5, eps=0.1)) == 0
  for num_rows, first in ((1, 3), (5, 2)):  # what fills up a batch changes nothing
    some, rows = of(num_rows, first=first), slice(first, first + num_rows)
    for name, flags in some.robust_after.items():
      np.testing.assert_array_equal(flags, whole.robust_after[name][rows])
    np.testing.assert_array_equal(some.x_adv, whole.x_adv[rows])
    np.testing.assert_array_equal(some.num_forward, whole.num_forward[rows])


def test_a_second_call_compiles_nothing():
  logits_fn, version = fresh_net(), stages("apgd-ce", "square")
  first = evaluate(logits_fn, version, check=True)
  assert num_compiled(lambda: evaluate(logits_fn, version, check=True)) == 0
  other = fresh_net(2.0)
  assert num_compiled(lambda: evaluate(other, version)) > 0
  np.testing.assert_array_equal(evaluate(logits_fn, version).robust, first.robust)


@pytest.mark.parametrize("make", ["name", "array", "jit", "callback"])
def test_weights_that_change_are_noticed(make):
  """The same function, and another model: a net that goes on training, a name bound anew."""
  state = {"weights": jnp.asarray(linear_net.WEIGHTS), "numpy": linear_net.WEIGHTS.copy()}

  def logits_fn(x):
    if make == "array":
      return (x - 0.5) @ state["numpy"]
    if make == "jit":
      return jax.jit(lambda x: (x - 0.5) @ state["weights"])(x)
    if make == "callback":
      weights = np.asarray(state["weights"])
      shape = jax.ShapeDtypeStruct((len(x), 4), x.dtype)
      return jax.pure_callback(lambda x: (np.asarray(x) - np.float32(0.5)) @ weights, shape, x)
    return (x - 0.5) @ state["weights"]

  version = stages("square")
  before = evaluate(logits_fn, version)
  assert before.clean.all()
  state["weights"] = -state["weights"]
  state["numpy"] *= -1
  assert evaluate(logits_fn, version).clean.mean() < 0.5


def test_what_is_compiled_does_not_keep_the_model_alive():
  logits_fn = fresh_net()
  evaluate(logits_fn, stages("square"))
  gone = weakref.ref(logits_fn)
  del logits_fn
  gc.collect()
  assert gone() is None


def two_classes(x):
  return linear_net.linear(x)[:, :2]


@pytest.mark.parametrize(
  ("logits_fn", "version", "message"),
  [
    (two_classes, ("apgd-t",), "no attack is left to run: left out for lack of classes: apgd-t; "
     "the model has 2 classes"),
    (two_classes, ("apgd-t", "apgd-dlr"), "no attack is left to run"),
    (linear_net.linear, (), "expected one or several different attacks"),
  ],
)  # fmt: skip
def test_an_evaluation_without_an_attack_is_an_error(logits_fn, version, message):
  x, _ = linear_net.interior(4)
  labels, ball = jnp.argmax(logits_fn(x), axis=1), attacks.linf_ball(0.05)
  with pytest.raises(ValueError, match=message):
    attacks.autoattack(logits_fn, x, labels, KEY, ball=ball, version=version)
  with pytest.raises(ValueError, match=message):
    run = attacks.make_autoattack(logits_fn, norm="linf", version=version)
    run(x, labels, KEY, ball=ball)


def test_what_is_left_out_is_a_warning_too():
  x, _ = linear_net.interior(4)
  with pytest.warns(RobustnessWarning, match="left out for lack of classes: apgd-t") as raised:
    result = attacks.autoattack(
      two_classes, x, jnp.argmax(two_classes(x), axis=1), KEY, ball=attacks.linf_ball(0.05),
      version=stages("apgd-ce", "apgd-t"), check=False,
    )  # fmt: skip
  assert result.warnings == ("left out for lack of classes: apgd-t",)
  assert raised[0].filename == __file__
  videos = x.reshape(4, 1, 2, 3, 1)
  logits_fn = lambda x: linear_net.linear(x.reshape(-1, 6))  # noqa: E731
  labels = jnp.argmax(logits_fn(videos), axis=1)
  for version, left in ((stages("apgd-ce", "square"), ["apgd-ce"]), (stages("square"), None)):
    call = lambda v=version: attacks.autoattack(  # noqa: E731
      logits_fn, videos, labels, KEY, ball=attacks.linf_ball(0.05), version=v, check=False
    )
    if left is None:
      with pytest.raises(ValueError, match="no attack is left to run"):
        call()
    else:
      with pytest.warns(
        RobustnessWarning, match=r"left out for images of shape \(1, 2, 3, 1\): sq"
      ):
        assert list(call().robust_after) == left


def test_a_stage_that_can_not_run_stops_the_evaluation_before_the_first_attack():
  honest, steps = STAGES["apgd-ce"](SHORT).searches[0][0], []

  def watched(ball, logits_fn, state):
    jax.debug.callback(lambda: steps.append(1))
    return honest.step(ball, logits_fn, state)

  def broken(ball, logits_fn, state):
    raise ValueError("made for other images")

  version = [
    Stage(name, ((Search(honest.init, step, 3), 1),))
    for name, step in (("first", watched), ("second", broken))
  ]
  with pytest.raises(ValueError, match="made for other images"):
    evaluate(fresh_net(), version)
  jax.effects_barrier()
  assert not steps


@pytest.mark.thorough
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_features_are_evaluated_by_all_attacks(norm):
  """`[n, d]`: Square's windows are one feature each, and find the exact optimum in linf."""
  x, labels = linear_net.interior(12)
  eps = {"linf": 0.05, "l2": 0.1, "l1": 0.2}[norm]
  square = attacks.autoattack(
    linear_net.linear, x, labels, KEY, ball=attacks.BALLS[norm](eps),
    version=(STAGES["square"](Settings(num_queries=400)),), check=False,
  )  # fmt: skip
  assert square.robust.sum() < 11 and not square.warnings
  if norm == "linf":
    normals = np.abs(linear_net.WEIGHTS.T[None] - linear_net.WEIGHTS.T[np.asarray(labels)][:, None])
    logits = np.asarray(linear_net.linear(x))
    lead = logits[np.arange(12), labels][:, None] - logits
    away = np.where(normals.sum(-1) > 0, lead / np.maximum(normals.sum(-1), 1e-9), np.inf).min(1)
    np.testing.assert_array_equal(square.robust, away > eps)
  else:
    exact = linear_net.least_distance(x, labels)
    assert not np.any(~square.robust & (exact > eps)) and square.robust[exact > eps].all()


def queried(x):
  """The linear net behind a callback: JAX cannot differentiate it."""
  shape = jax.ShapeDtypeStruct((len(x), 4), x.dtype)
  return jax.pure_callback(
    lambda x: (np.asarray(x) - np.float32(0.5)) @ linear_net.WEIGHTS, shape, x
  )


GRADIENTS = sorted(set(attacks.ATTACKS) - {"square"})
NETS = {"slowdown": lambda x: (queried(x), queried(x))}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_attacks_on_a_model_that_is_only_queried_name_the_remedy(name):
  x, labels = linear_net.interior(3)
  ball = attacks.l2_ball(0.1) if name in ("cw_l2", "ddn") else attacks.linf_ball(0.1)
  attack, net = attacks.ATTACKS[name], NETS.get(name, queried)
  message = "no derivative .* needs one: take attacks.square"
  with pytest.raises(ValueError, match=message):
    attack(net, x, labels, KEY, ball=ball)
  with pytest.raises(ValueError, match=message):
    jax.jit(lambda x: attack(net, x, labels, KEY, ball=ball))(x)


def test_square_needs_no_derivative():
  x, labels = linear_net.interior(12)
  ball, options = attacks.linf_ball(0.05), {"num_queries": 100}
  run = lambda f: jax.jit(lambda x: attacks.square(f, x, labels, KEY, ball=ball, **options))(x)  # noqa: E731
  both = [run(f) for f in (queried, fresh_net())]
  assert np.mean(jnp.argmax(linear_net.linear(both[0]), axis=1) != labels) > 0.2
  np.testing.assert_allclose(*both, atol=1e-6)
  version = (STAGES["square"](Settings(num_queries=100)),)
  found = [evaluate(f, version, 12, check=True) for f in (queried, fresh_net())]
  assert not found[0].warnings
  np.testing.assert_array_equal(found[0].robust, found[1].robust)
  with pytest.raises(ValueError, match="no derivative .*apgd-ce, apgd-t, fab-t needs one"):
    evaluate(queried, "standard")


def test_other_errors_of_a_model_are_left_alone():
  x, labels = linear_net.interior(3)
  with pytest.raises(TypeError, match="dot_general requires|incompatible"):
    attacks.pgd(lambda x: x @ jnp.ones((5, 4)), x, labels, KEY, ball=attacks.linf_ball(0.1))
