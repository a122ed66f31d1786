"""The representation of a net: what its head reads, and the derivative of its last activation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import models
from jax_robust.models.representation import make_features_fn, representation

NETS = {
  "small_cnn": models.SmallCNN(num_classes=3, channels=(4, 6), strides=(1, 2)),
  "mlp": models.MLP(num_classes=3, hidden=(8, 7)),
  "lenet": models.LeNet(num_classes=3),
  "cifar_resnet": models.CifarResNet(num_classes=3, depth=8),
  "wide_resnet": models.WideResNet(num_classes=3, depth=10, width=1, remat=True),
}
SIDE = {"lenet": 16}


def problem(name, draw_variables):
  """A net with weights, and images."""
  net, side = NETS[name], SIDE.get(name, 8)
  shape = (2, side, side, 3)
  return net, draw_variables(net, shape[1:]), jax.random.uniform(jax.random.key(3), shape)


@pytest.mark.parametrize("name", NETS)
def test_head_reads_it(name, draw_variables):
  net, variables, x = problem(name, draw_variables)
  features = jax.jit(make_features_fn(net, variables))(x)
  head = variables["params"]["logits"]
  logits = jax.jit(lambda x: net.apply(variables, x))(x)
  expected = np.asarray(features) @ head["kernel"] + head["bias"]
  np.testing.assert_allclose(expected, logits, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["small_cnn", "mlp", "cifar_resnet", "wide_resnet"])
def test_identity_backward_keeps_values_and_passes_units_that_are_off(name, draw_variables):
  net, variables, x = problem(name, draw_variables)
  plain, through = (
    jax.jit(make_features_fn(net, variables, identity_backward=each)) for each in (False, True)
  )
  np.testing.assert_allclose(through(x), plain(x), rtol=1e-6, atol=1e-6)
  gradients = [jax.jit(jax.grad(lambda x, g=g: g(x).sum()))(x) for g in (plain, through)]
  assert np.abs(gradients[0] - gradients[1]).max() > 1e-3 * np.abs(gradients[0]).max()


def test_identity_backward_is_that_of_the_last_activation_alone():
  """Of a net that is known: relu(relu(x w1) w2), both layers with units that are off."""
  net = models.MLP(num_classes=2, hidden=(3, 2))
  w1, w2 = np.array([[1.0, -1.0, 2.0]]), np.array([[1.0, -1.0], [5.0, 5.0], [0.5, -2.0]])
  variables = {"params": {
    "hidden_0": {"kernel": w1, "bias": np.zeros(3)}, "hidden_1": {"kernel": w2,
    "bias": np.zeros(2)}, "logits": {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)},
  }}  # fmt: skip
  for identity_backward, expected in ((True, w1 * [1.0, 0.0, 1.0] @ w2), (False, [[2.0, 0.0]])):
    features_fn = make_features_fn(net, variables, identity_backward=identity_backward)
    jacobian = jax.jit(jax.jacobian(features_fn))(jnp.full((1, 1, 1, 1), 0.5))
    np.testing.assert_allclose(jacobian.reshape(1, 2), expected)


def test_one_exit_of_several_is_named(draw_variables):
  net = models.MSDNet(
    num_classes=3, num_blocks=2, base=1, step=1, channels=2, growth=2, growth_factors=(1, 2),
    bottleneck_factors=(1, 2),
  )  # fmt: skip
  variables, x = draw_variables(net, (16, 16, 3)), jnp.full((1, 16, 16, 3), 0.5)
  with pytest.raises(ValueError, match="called 2 times: exit_0/logits, exit_1/logits; give"):
    jax.eval_shape(lambda x: representation(net, variables, x), x)
  shape = jax.eval_shape(make_features_fn(net, variables, head="exit_1/logits"), x)
  assert shape.shape == (1, 128)


class OwnNet(nn.Module):
  """A net of one's own, without a method `activate`."""

  @nn.compact
  def __call__(self, x, train=False):
    return nn.Dense(2, name="classifier")(nn.relu(nn.Dense(4)(x.reshape(len(x), -1))))


def test_a_net_of_ones_own():
  net, x = OwnNet(), jnp.ones((3, 2, 2, 1))
  variables = net.init(jax.random.key(0), x)
  features = representation(net, variables, x, head="classifier")
  assert features.shape == (3, 4) and features.min() >= 0
  with pytest.raises(ValueError, match=r"head='logits' is none of its layers: expected one of"):
    representation(net, variables, x)
  with pytest.raises(ValueError, match="OwnNet calls no method 'activate'"):
    representation(net, variables, x, head="classifier", identity_backward=True)
