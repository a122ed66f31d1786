"""Models of images alone and randomised ones in one form; those that can't be traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks, losses
from jax_robust.nets.randomised import keyed

pytestmark = pytest.mark.fast

X = np.full((2, 3), 0.5, np.float32)

NOT_TRACED = {
  "NumPy": lambda x: np.asarray(x) @ np.eye(3, dtype=np.float32),
  "a number": lambda x: x * float(x.sum()),
  "a condition": lambda x: x if x.sum() > 0 else -x,
  "an index": lambda x: x * np.arange(4)[x[0, 0].astype(int)],
  "a list": lambda x: x[: x.sum().astype(int).tolist()],
}


@pytest.mark.parametrize("model", NOT_TRACED.values(), ids=NOT_TRACED)
def test_a_model_that_asks_for_values_is_named_with_the_remedy(model):
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.raises(TypeError, match="can't be traced by JAX.*Write it with jax.numpy"):
    jax.eval_shape(keyed(model), X, keys)


def test_an_attack_names_the_remedy_and_it_is_one():
  model, labels, ball = NOT_TRACED["NumPy"], np.array([0, 1]), attacks.linf_ball(0.1)
  with pytest.raises(TypeError, match="can't be traced by JAX.*pure_callback"):
    attacks.fgsm(model, X, labels, 0, ball=ball)

  def asked(x):
    return jax.pure_callback(model, jax.ShapeDtypeStruct((len(x), 3), jnp.float32), x)

  x_adv = attacks.square(asked, X, labels, 0, ball=ball, num_queries=3)
  assert (losses.margin(asked(x_adv), labels) > losses.margin(asked(X), labels)).all()
