"""Square Attack: random search with square windows, for models whose gradients are of no use."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust.attacks.balls import Ball
from jax_robust.attacks.entry import check_inputs
from jax_robust.attacks.pgd_steps import read_restarts
from jax_robust.attacks.square_search import square_search
from jax_robust.attacks.stepwise import make_problem, run_all
from jax_robust.types import Images, LogitsFn, Rng


def square(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  num_queries: int = 5000,
  num_restarts: int = 1,
  p_init: float = 0.8,
  resc_schedule: bool = False,
) -> Float[Array, "b *dims"]:
  """Square Attack, in any ball: random search over windows, without a gradient.

  A proposal changes the best point in a square window whose place and signs are drawn, and is kept
  where `losses.margin` rises or the class changes. The share of the image that a window covers is
  `p_init` at first and is halved after proposals 10, 50, 200, 500, 1000, 2000, 4000, ....

  - linf: the window is moved to one face of the ball, chosen per channel; starts from vertical
    stripes of ±eps.
  - l2: a pair of opposite bumps is mixed into one window, and takes the mass of a second window and
    whatever of eps is unused; the perturbation is then scaled to eps and clipped. Starts from 5 x 5
    such pairs. l1: likewise, projected rather than scaled and clipped.

  Deviations from the reference: windows and signs are drawn per example, not once for the batch,
  so that no row depends on others; offsets include the last one, as in the paper (the reference
  never draws it, and so leaves the last row and column of an image as they started); a tie of the
  logits whose arg max is still the label is no success; in l2 and l1, tiles of images that the
  reference cannot tile (not square, or some below 25 pixels) are centred.

  Guarantees: those of `jax_robust.attacks`, and
    `linear_optimum_is_approached`: linf, on a linear model.
    `best_margin_never_falls`: from query to query.

  Args: those of `jax_robust.attacks`, and
    logits_fn: only queried; it needs no derivative.
    x: images in [0, 1], `[b, h, w, c]` or `[b, h, w]`; or features `[b, d]`, whose windows are one
      feature each, from a start at ±eps for each.
    ball: in l2 its `exact` is not used.
    num_queries: proposals, after the query at the start; static.
    p_init: share of the image's area that the first windows cover; static.
    resc_schedule: stretch the halvings, meant for 10,000 proposals, to `num_queries`; static.

  Returns:
    x_adv `[b, ...]`: the first successful point; where there is none, that of highest margin
    (of the last restart).

  Reference: Andriushchenko et al., 2020, "Square Attack: a query-efficient black-box adversarial
  attack via random search", https://arxiv.org/abs/1912.00049.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), 11.0 - x.sum((1, 2, 3))], axis=1)
  >>> x, labels = jnp.full((1, 4, 4, 1), 0.5), jnp.array([0])
  >>> x_adv = square(logits_fn, x, labels, jax.random.key(0), ball=linf_ball(0.25), num_queries=50)
  >>> bool(jnp.argmax(logits_fn(x_adv)) == 1)
  True
  """
  num_restarts = read_restarts(num_restarts, None)
  search = square_search(
    num_queries=num_queries, p_init=p_init, resc_schedule=resc_schedule, to_goal=goals is not None
  )
  inputs = check_inputs("square", logits_fn, x, targets, rng, ball, goals=goals)
  problem = make_problem(inputs)
  tries = jnp.broadcast_to(problem.goals, (num_restarts, *problem.goals.shape))
  return run_all("square", search, inputs.query, problem, tries, ball=ball)
