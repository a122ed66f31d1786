"""One update: micro-batches, randomness, what it reports, what it carries over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_robust import attacks, models, objectives
from jax_robust.train import step
from jax_robust.train.state import TrainState, create_state, make_apply_fn

ROWS = 16


def make_state(params, model_state=None, *, number=0, optimizer=None):
  optimizer = optimizer or optax.sgd(1.0)
  return TrainState(
    step=jnp.int32(number),
    params=params,
    model_state={} if model_state is None else model_state,
    opt_state=optimizer.init(params),
    ema=jax.tree.map(jnp.copy, params),
    carry={"kept": jnp.arange(3)},
    rng=jax.random.key_data(jax.random.key(7)),
  )


def images():
  """A batch as an objective consumes it, in float64."""
  rng = np.random.default_rng(0)
  return {
    "image": rng.uniform(size=(ROWS, 4, 4, 1)),
    "target": rng.dirichlet(np.ones(3), ROWS),
    "row": np.arange(ROWS),
  }


@pytest.fixture(scope="module")
def updated():
  """`updated(num_microbatches, num_devices, group_size)`: the state before and after, and metrics.

  TRADES with a random start and debiased BatchNorm in groups, in float64.
  """
  net = models.create("mlp", num_classes=3, hidden=(5,), norm=True, bn_debias=True, dtype="float64")
  with jax.enable_x64(True):
    start = create_state(net, optax.sgd(1.0), [jnp.zeros((1, 4, 4, 1))], seed=0)
  attack = attacks.make_attack("pgd", eps=0.1, num_steps=1)

  @functools.cache
  def run(num_microbatches=1, num_devices=1, group_size=4):
    with jax.enable_x64(True):
      update = step.make_update(
        functools.partial(objectives.trades, attack=attack),
        make_apply_fn(net.clone(bn_group_size=group_size)),
        optax.sgd(1.0),
        prepare=lambda raw, key: raw,
        steps_per_epoch=10.0,
        num_microbatches=num_microbatches,
        num_devices=num_devices,
      )
      state = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, start
      )
      return state, *jax.jit(update)(state, images())

  return run


@pytest.mark.parametrize(("num_microbatches", "num_devices"), [(4, 1), (2, 2)])
def test_microbatches_change_nothing(updated, num_microbatches, num_devices):
  start, whole, metrics = updated()
  _, cut, cut_metrics = updated(num_microbatches, num_devices)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
  for field in ("params", "model_state"):
    jax.tree.map(close, getattr(cut, field), getattr(whole, field))
  kernels = (state.params["hidden_0"]["kernel"] for state in (start, whole))
  assert np.abs(np.subtract(*kernels)).max() > 1e-2
  jax.tree.map(close, cut_metrics, metrics)
  count = cut.model_state["batch_stats"]["batchnorm_0"]["count"]
  assert count == 1 and count.dtype == jnp.int32


def test_whole_batch_statistics_do_not_survive_the_cut(updated):
  """Hence a guarantee for groups only; and the test above would see a difference."""
  _, whole, _ = updated(group_size=None)
  _, cut, _ = updated(2, group_size=None)
  kernels = (state.params["hidden_0"]["kernel"] for state in (whole, cut))
  assert np.abs(np.subtract(*kernels)).max() > 1e-4


def test_a_piece_takes_an_equal_run_of_every_devices_rows():
  batch = {"row": jnp.arange(12), "pair": jnp.arange(24).reshape(12, 2)}
  pieces = step._cut(batch, 2, 3)
  np.testing.assert_array_equal(pieces["row"], [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]])
  np.testing.assert_array_equal(pieces["pair"][..., 0], 2 * pieces["row"])
  np.testing.assert_array_equal(step._cut(batch, 2, 1)["row"], np.arange(12).reshape(2, 6))
  np.testing.assert_array_equal(step._cut(batch, 1, 3)["row"], np.arange(12)[None])


@pytest.mark.parametrize(("num_pieces", "num_devices"), [(5, 1), (2, 4), (1, 5)])
def test_a_batch_that_cannot_be_cut_evenly(num_pieces, num_devices):
  message = f"a batch of 12 rows .* {num_pieces} micro-batches on {num_devices} devices"
  with pytest.raises(ValueError, match=message):
    step._cut({"row": jnp.arange(12)}, num_pieces, num_devices)


def drawing(apply_fn, params, model_state, batch, rng, progress):
  """An objective whose gradient in `params[row]` is what that row drew, over the number of rows."""
  del apply_fn, progress
  draws = jax.vmap(jax.random.uniform)(rng) + batch["prepared"]
  return jnp.mean(params[batch["row"]] * draws), (model_state, {})


@functools.cache
def drawing_update(num_microbatches, num_devices):
  def prepare(raw, key):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, raw["row"])
    return {**raw, "prepared": 10 * jax.vmap(jax.random.uniform)(keys)}

  update = step.make_update(
    drawing,
    None,
    optax.sgd(1.0),
    prepare=prepare,
    steps_per_epoch=1.0,
    num_microbatches=num_microbatches,
    num_devices=num_devices,
  )
  return jax.jit(update)


def drawn(rows, *, number=0, num_microbatches=1, num_devices=1):
  """The draws that the given rows of a global batch of 16 see, by row number."""
  update = drawing_update(num_microbatches, num_devices)
  state, _ = update(make_state(jnp.zeros(ROWS), number=number), {"row": jnp.asarray(rows)})
  return -np.asarray(state.params) * len(rows)


def test_draws_follow_run_step_and_row_only():
  """Augmentation and attack draw the same for a row in any cut, order, slice or place."""
  whole = drawn(range(ROWS))
  assert len(np.unique(whole)) == ROWS
  assert len(np.unique(whole // 1)) > 5  # what `prepare` drew
  for other in (
    drawn(range(ROWS), num_microbatches=2, num_devices=4),
    drawn(range(ROWS)[::-1]),
  ):
    np.testing.assert_allclose(other, whole, rtol=1e-6)
  upper = drawn(range(8, ROWS))
  np.testing.assert_allclose(upper[8:], whole[8:], rtol=1e-6)
  np.testing.assert_array_equal(upper[:8], 0)
  assert np.abs(drawn(range(ROWS), number=1) - whole).min() > 1e-5


def toy(apply_fn, params, model_state, batch, rng, progress):
  """A loss that can be broken: `mean_i w x_i`, and metrics that show what it was given."""
  del apply_fn, rng
  loss = jnp.mean(params["w"] * batch["x"])
  metrics = {"step": progress.step + 0.0, "epoch": progress.epoch, "mean_x": jnp.mean(batch["x"])}
  return loss, ({"count": model_state["count"] + 1, "sum": jnp.sum(batch["x"])}, metrics)


def update_once(objective=toy, *, w=1.0, x=None, number=0, optimizer=None, **options):
  optimizer = optimizer or optax.sgd(1.0)
  x = jnp.arange(1.0, 5.0) if x is None else jnp.asarray(x)
  update = step.make_update(
    objective,
    None,
    optimizer,
    prepare=lambda raw, key: raw,
    steps_per_epoch=8.0,
    **options,
  )
  model_state = {"count": jnp.int32(3), "sum": jnp.float32(0)}
  state = make_state({"w": jnp.asarray(w)}, model_state, number=number, optimizer=optimizer)
  return jax.jit(update)(state, {"x": x, "row": jnp.arange(4)})


def test_progress_and_metrics_reach_the_caller():
  state, metrics = update_once(number=12)
  assert state.step == 13 and state.step.dtype == jnp.int32
  assert (metrics["step"], metrics["epoch"]) == (12, 1.5)
  assert (metrics["loss"], metrics["grad_norm"], metrics["mean_x"]) == (2.5, 2.5, 2.5)
  assert metrics["finite"]


def test_what_the_objective_does_not_touch_is_carried_over():
  state, _ = update_once()
  np.testing.assert_array_equal(state.carry["kept"], np.arange(3))
  np.testing.assert_array_equal(state.rng, jax.random.key_data(jax.random.key(7)))
  assert state.params["w"] == 1 - 2.5
  assert state.model_state == {"count": 4, "sum": 10}


def test_pieces_are_averaged_and_counters_stay_counters():
  state, metrics = update_once(num_microbatches=2)
  assert state.params["w"] == 1 - 2.5 and metrics["loss"] == 2.5
  assert state.model_state["count"] == 4 and state.model_state["count"].dtype == jnp.int32
  assert state.model_state["sum"] == 5


def test_average():
  state, _ = update_once()
  assert state.ema["w"] == state.params["w"] == -1.5
  state, _ = update_once(ema={"decay": 0.75, "ramp": False})
  assert state.ema["w"] == 0.75 * 1 + 0.25 * -1.5
  state, _ = update_once(ema={"decay": 0.995})
  np.testing.assert_allclose(state.ema["w"], 0.1 * 1 + 0.9 * -1.5, rtol=1e-6)
  state, _ = update_once(ema={"decay": 0.995, "warmup_steps": 5}, number=4)
  assert state.ema["w"] == -1.5


def kink(apply_fn, params, *args):
  """A finite loss without a finite gradient: sqrt at 0."""
  loss, (model_state, metrics) = toy(apply_fn, params, *args)
  return loss + jnp.sqrt(params["w"]), (model_state, metrics)


@pytest.mark.parametrize(
  ("options", "finite"),
  [
    ({}, True),
    ({"x": [1.0, 2.0, np.nan, 4.0]}, False),
    ({"x": [1.0, 2.0, np.inf, 4.0]}, False),
    ({"x": [np.nan, 2.0, 3.0, 4.0], "num_microbatches": 2}, False),
    ({"x": [1.0, 2.0, 3.0, np.nan], "num_microbatches": 4}, False),
    ({"objective": kink, "w": 4.0}, True),
    ({"objective": kink, "w": 0.0}, False),
    ({"optimizer": optax.sgd(3e38)}, False),
  ],
  ids=["sound", "nan", "inf", "nan_first", "nan_last", "gradient_sound", "gradient", "params"],
)
def test_finite_tells_of_loss_gradient_and_parameters(options, finite):
  state, metrics = update_once(**options)
  assert bool(metrics["finite"]) == finite
  if options.get("objective") is kink:
    assert np.isfinite(metrics["loss"])
  if "optimizer" in options:
    assert np.isfinite(metrics["grad_norm"]) and not np.isfinite(state.params["w"])


def test_axis_name_averages_over_the_mapped_axis():
  update = step.make_update(
    toy,
    None,
    optax.sgd(1.0),
    prepare=lambda raw, key: raw,
    steps_per_epoch=8.0,
    axis_name="data",
  )
  mapped = jax.jit(jax.vmap(update, (None, 0), axis_name="data"))
  state = make_state({"w": jnp.float32(1)}, {"count": jnp.int32(3), "sum": jnp.float32(0)})
  batch = {"x": jnp.arange(1.0, 5.0).reshape(2, 2), "row": jnp.arange(4).reshape(2, 2)}
  states, metrics = mapped(state, batch)
  np.testing.assert_array_equal(states.params["w"], [-1.5, -1.5])
  np.testing.assert_array_equal(states.model_state["sum"], [5, 5])
  np.testing.assert_array_equal(states.model_state["count"], [4, 4])
  for name in ("loss", "grad_norm", "mean_x"):
    np.testing.assert_array_equal(metrics[name], [2.5, 2.5])
  assert metrics["finite"].all()

  _, metrics = mapped(state, batch | {"x": batch["x"].at[1, 0].set(np.nan)})
  np.testing.assert_array_equal(metrics["finite"], [False, False])


def broken(apply_fn, params, model_state, batch, rng, progress):
  """Loses the running statistics."""
  return jnp.sum(params["logits"]["bias"]), ({}, {})


@pytest.mark.parametrize(
  ("objective", "rows", "message"),
  [(broken, ROWS, "tree"), (objectives.standard, ROWS - 1, "prefix")],
)
def test_a_broken_contract_is_an_error_when_traced(objective, rows, message):
  net = models.create("mlp", num_classes=3, hidden=(5,), norm=True)
  state = create_state(net, optax.sgd(1.0), [jnp.zeros((1, 4, 4, 1))], seed=0)
  update = step.make_update(
    objective, make_apply_fn(net), optax.sgd(1.0), prepare=lambda raw, key: raw, steps_per_epoch=1.0
  )
  batch = {**images(), "target": images()["target"][:rows]}
  with pytest.raises(AssertionError, match=message):
    jax.eval_shape(update, state, jax.tree.map(jnp.asarray, batch))
