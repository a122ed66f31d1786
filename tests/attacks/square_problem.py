"""A problem on which Square Attack can be watched step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import attacks
from jax_robust.attacks import stepwise
from jax_robust.attacks.square_search import square_search
from jax_robust.types import as_keys

RADII = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
NUM_ROWS = 6
SEARCH = square_search(num_queries=300)
ONE_SIZE = square_search(num_queries=11, p_init=0.1)  # ends before windows shrink


@jax.jit
def robust_logits(x):
  """A linear model that no radius here fools, as smooth as can be; label 1 is right."""
  weights = jnp.asarray(np.random.default_rng(0).normal(size=x.shape[1:]), x.dtype)
  score = jnp.sum(x * weights[None], axis=(1, 2, 3))
  return jnp.stack([score, jnp.full_like(score, 100.0)], axis=1)


@functools.partial(jax.jit, static_argnames=("shape", "on_faces"))
def images(shape=(7, 9, 3), on_faces=True):
  """Images, of which some pixels are on the faces of the box."""
  x = jax.random.uniform(jax.random.key(5), (NUM_ROWS, *shape), minval=0.2, maxval=0.8)
  return x.at[:, 0].set(0.0).at[:, :, 1].set(1.0) if on_faces else x


@functools.cache
def jitted_init(search):
  """The start, compiled once for each ball and shape."""
  return jax.jit(search.init)


def begin(norm, x, search=SEARCH):
  """The ball, and the state before the first query."""
  ball = attacks.BALLS[norm](RADII[norm])
  labels = jnp.ones(x.shape[0], jnp.int32)
  problem = stepwise.Problem(x, labels, labels, as_keys(jax.random.key(2), x.shape[0]))
  return ball, jitted_init(search)(ball, problem)


@functools.cache
def jitted_step(search, logits_fn):
  """One step, compiled once for each ball and shape."""
  return jax.jit(lambda ball, state: search.step(ball, lambda x, keys: logits_fn(x), state))


def walk(norm, x, num, *, logits_fn=robust_logits, take_all=False, search=SEARCH):
  """The states before and after each of the first queries; `take_all` accepts each proposal."""
  ball, state = begin(norm, x, search)
  states = [state]
  for _ in range(num):
    if take_all:
      state = state._replace(best_margin=jnp.full_like(state.best_margin, -jnp.inf))
    state = jitted_step(search, logits_fn)(ball, state)
    states.append(state)
  return states
