"""MSDNet: sizes and costs to the unit, agreement with the PyTorch program, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import models
from jax_robust.models.convert import from_torch, load_arrays, to_torch
from jax_robust.models.msdnet_plan import layers_per_block

LIN_GROW = {"step_mode": "lin_grow", "base": 1, "step": 1}
EVEN_7 = {"num_blocks": 7, "num_classes": 100}
TINY = {"num_blocks": 2, "base": 1, "step": 1, "channels": 2, "growth": 2}


def make(**options):
  return models.create("msdnet", **{"num_classes": 10, **options})


# Published program's counts (multiply-adds, biases, one operation per activation or average).
@pytest.mark.fast
@pytest.mark.parametrize(
  ("options", "flops"),
  [
    ({}, [15_128_842, 24_318_740, 32_657_438, 39_839_528, 47_698_994]),
    (LIN_GROW, [6_848_266, 14_326_804, 27_501_854, 41_668_136, 58_422_578]),
    (
      EVEN_7,
      [15_140_452, 25_505_992, 37_095_980, 46_331_024, 57_335_540, 66_960_728, 75_937_724],
    ),
  ],
)
def test_operations_to_the_unit(options, flops):
  assert [cost.flops for cost in make(**options).costs()] == flops


@pytest.mark.fast
@pytest.mark.parametrize(
  ("options", "millions"),
  [
    ({}, [14.956, 20.542, 26.108, 29.649, 34.761]),
    (LIN_GROW, [6.781, 11.973, 21.933, 33.509, 45.934]),
  ],
)
def test_multiply_adds_of_each_exit_alone(options, millions):
  assert [round(cost.macs / 1e6, 3) for cost in make(**options).costs()] == millions


@pytest.mark.fast
def test_layers_and_their_channels():
  """Channels per unit at the input of each layer, and where the finest scale is dropped."""

  def channels(**options):
    return [[layer.channels for layer in block] for block in make(**options).plan]

  def transitions(**options):
    return [layer.transition for block in make(**options).plan for layer in block if layer[3]]

  assert layers_per_block(7, "lin_grow", 1, 1) == (1, 2, 3, 4, 5, 6, 7)
  assert channels() == [[16, 22, 28, 34], [40, 23], [29, 35], [41, 23], [29, 35]]
  assert transitions() == [23, 23]
  assert channels(**LIN_GROW) == [
    [16], [22, 28], [34, 40, 46], [26, 32, 38, 44], [50, 28, 34, 40, 46],
  ]  # fmt: skip
  assert transitions(**LIN_GROW) == [26, 28]
  assert channels(**EVEN_7) == [
    [16, 22, 28, 34], [40, 46], [52, 29], [35, 41], [47, 53], [59, 32], [38, 44],
  ]  # fmt: skip
  assert transitions(**EVEN_7) == [29, 32]


PARTS = ("block", "exit")


@pytest.mark.parametrize(
  ("options", "cumulative"),
  [
    ({}, [422_266, 763_648, 1_141_530, 1_488_276, 1_892_990]),
    (LIN_GROW, [288_094, 626_520, 983_478, 1_445_984, 2_020_874]),
    pytest.param(
      EVEN_7,
      [433_876, 876_792, 1_274_952, 1_695_548, 2_178_352, 2_603_252, 3_067_960],
      marks=pytest.mark.slow,
    ),
    pytest.param({**EVEN_7, **LIN_GROW}, [*[None] * 6, 3_966_664], marks=pytest.mark.slow),
  ],
)
def test_parameter_counts(shapes_of, options, cumulative):
  params = shapes_of(make(**options))["params"]
  sizes = [
    sum(leaf.size for leaf in jax.tree.leaves([params[f"{part}_{number}"] for part in PARTS]))
    for number in range(len(cumulative))
  ]
  found = np.cumsum(sizes).tolist()
  assert [a for a, b in zip(found, cumulative, strict=True) if b] == [b for b in cumulative if b]


def test_released_program_agrees(oracles, shapes_of):
  """Logits of all exits, and the gradient of class three of all exits in the images."""
  path = oracles / "models" / "msdnet_even5.npz"
  recorded, arrays = np.load(path, allow_pickle=False), load_arrays(path, prefix="weights/")
  net = make()
  variables = from_torch(arrays, shapes_of(net), names="msdnet")
  x = jnp.asarray(recorded["images_uint8"], jnp.float32) / 255

  logits = jax.jit(lambda x: net.apply(variables, x))(x)
  for number, values in enumerate(logits):
    assert_close(values, recorded[f"logits_{number}"], 1e-4)
  back = to_torch(variables, names="msdnet")
  assert back.keys() == {name for name in arrays if not name.endswith("num_batches_tracked")}
  jax.tree.map(np.testing.assert_array_equal, back, {name: arrays[name] for name in back})


def test_blocks_are_the_whole(draw_variables):
  """Block by block, the logits are those of one call; the first block's need no later one."""
  net = make(**TINY)
  variables = draw_variables(net, (32, 32, 1))
  x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))
  whole = jax.jit(lambda x: net.apply(variables, x))(x)
  state = x
  for number in range(2):
    run = jax.jit(lambda state, n=number: net.apply(variables, state, n, method="run_block"))
    state, logits = run(state)
    assert_close(logits, whole[number], 1e-5)
  first = {
    collection: {name: values for name, values in tree.items() if name in ("block_0", "exit_0")}
    for collection, tree in variables.items()
  }
  logits = jax.jit(lambda x: net.apply(first, x, 0, method="run_block")[1])(x)
  assert_close(logits, whole[0], 1e-5)


def test_last_exit_is_the_same(draw_variables):
  """Its parameters and its logits; the other exits have none, and cost nothing."""
  net, last = make(**TINY), make(**TINY, exits="last")
  x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))
  variables = draw_variables(net, x.shape[1:])
  kept = {
    kind: {name: values for name, values in tree.items() if name != "exit_0"}
    for kind, tree in variables.items()
  }
  shapes = jax.eval_shape(last.init, jax.random.key(0), x)
  assert jax.tree.map(jnp.shape, kept) == jax.tree.map(lambda leaf: leaf.shape, shapes)
  (logits,) = jax.jit(last.apply)(kept, x)
  assert_close(logits, jax.jit(net.apply)(variables, x)[1], 1e-5)
  (cost,) = last.costs()
  assert cost.macs == net.costs()[-1].macs and cost.flops < net.costs()[-1].flops


@pytest.mark.fast
def test_last_exit_has_the_published_size(shapes_of):
  params = shapes_of(make(exits="last"))["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 655_446


@pytest.mark.parametrize(("name", "bias"), [("torch", 1 / 128**0.5), ("he", 0.0)])
def test_initial_weights(name, bias):
  """PyTorch's default, or He's; those of a 3x3 convolution with 128 channels on both sides."""
  net = make(**{**TINY, "num_blocks": 1}, initial_weights=name, num_classes=100)
  variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  head = variables["params"]["exit_0"]
  kernel, largest = head["convs"]["conv_1"]["kernel"], np.abs(head["logits"]["bias"]).max()
  expected = {"torch": (1 / (3 * 9 * 128)) ** 0.5, "he": (2 / (9 * 128)) ** 0.5}[name]
  np.testing.assert_allclose(np.std(kernel), expected, rtol=0.01)
  assert 0.9 * bias <= largest <= bias


@pytest.mark.fast
@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"step_mode": "evne"}, r"step_mode='evne': did you mean 'even'\?"),
    ({"initial_weights": "hee"}, r"initial_weights='hee': did you mean 'he'\?"),
    ({"exits": "lsat"}, r"exits='lsat': did you mean 'last'\?"),
    ({"num_blocks": 0}, "num_blocks=0: expected a whole number, at least 1"),
    ({"growth_factors": (1, 2)}, "differ in length: one of each per scale"),
    ({"growth": 3, "growth_factors": (1, 3, 4)}, "expected even numbers from the second scale on"),
  ],
)
def test_fields_that_make_no_net(options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)


@pytest.mark.fast
def test_images_too_small_for_the_scales(shapes_of):
  with pytest.raises(ValueError, match="8 pixels a side are too small for 3 scales .* at least 16"):
    shapes_of(make(**TINY), (8, 8, 3))
