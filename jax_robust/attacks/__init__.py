"""Attacks: pure functions `attack(logits_fn, x, targets, rng, *, ball, ...) -> x_adv`.

What they share is said here once; each function documents what is its own.

Args:
  logits_fn: the model, `x -> outputs`; or a randomised one, `(x, rng) -> outputs`, whose second
    parameter is called `rng` or `key`, and which gets a new key for each query and example. Outputs
    are logits `[b, k]`, or a tuple of them with one entry per exit. Attacks that ascend a loss
    ascend its mean over the exits (`losses.over_exits`), and an example counts as misclassified by
    its last exit (`nets.exits.predictions`); attacks that look for the decision boundary need one
    array, and say so. `nets.exits.select_exit` chooses one. `slowdown` needs several.
  x: images in [0, 1], `[b, ...]`, floating-point. Normalisation belongs into the model. float16 and
    bfloat16 too, but for the minimum-norm attacks and `autoattack`.
  targets: labels `[b]` of any integer or bool dtype, also `[b, 1]`, or as a list; or probabilities
    `[b, k]`, one-hot or soft: where an attack needs the true class it is the arg max.
  rng: one key, which is folded with the row number, or one key per example, `[b]`; raw keys of
    `jax.random.PRNGKey` and integer seeds will do too.
  ball: the threat model: `linf_ball`, `l2_ball` or `l1_ball`, eps in units of the image, one or one
    per example. `pgd`, its relatives and `apgd` take one per pixel too, in linf.
  goals: of a targeted attack, the class that each image shall be taken for, integers `[b]`. Then
    `loss_fn(outputs, goals)` is descended, and a success is that the goal is predicted; without
    goals it is any misclassification.
  loss_fn: `(outputs, targets) -> [b]`, ascended. Default: cross entropy.
  num_steps: gradient steps of one run; static.
  start: a point `[b, ...]` to start from; default is the attack's own, mostly a random point.
  num_restarts: independent runs from random starts; static.
  num_targets: of attacks called targeted in AutoAttack's sense, how many wrong classes are tried,
    in the order of their logits at x; at most all there are. Any misclassification is a success,
    whatever the target class: for a class of your choice, see `goals`.
  eot: of a randomised model, draws per step over which the loss is averaged (expectation over
    transformation), in one pass of `eot` times the memory; static.

Returns:
  x_adv, `[b, ...]`, of the dtype of x.

Guarantees, unless a function says otherwise:
  `result_is_in_ball_and_box`: distance(x_adv, x) <= eps (1 + 1e-6), 0 <= x_adv <= 1, computed in
    float64 from the numbers that are returned, of whatever dtype. As bytes: `to_uint8`.
  `zero_radius_is_the_identity`: eps = 0 returns x, bitwise.
  `result_is_independent_of_the_batch`: row i depends on image, target and key i only.
  `no_gradient_flows_out`: the result is a constant for whatever differentiates around it.

Raises:
  TypeError: x or the logits are not floating-point; labels stored as floats; rng is no key; the
    ball is none; `logits_fn` takes something else than `(x)` or `(x, rng)`.
  ValueError: x leaves [0, 1] or is not finite; a label is none of the classes; eps is not finite,
    negative or, in linf, above 1 (all of these unless traced); targets, keys or radii of another
    shape than x asks for; outputs that are no logits `[b, k]`, or are of one logit; options that
    contradict each other, an unknown name, a count that is too small, a ball of another norm.
    Goals outside the classes, or equal to the label. Logits that are NaN or infinite at x (unless
    traced). A model without a derivative, of attacks that need one: all but `square`.
  RobustnessWarning: in l2 and l1, a ball that holds all images. Logits that are NaN or infinite at
    points that were tried, with the rows of their images (unless traced): such a point is never a
    success, and the run goes on from an earlier one.

Weights enter through the closure of `logits_fn`, where an attack cannot see them: a training step
that differentiates with respect to them passes `jax.lax.stop_gradient(params)` into that closure,
else JAX carries tangents of the weights through every step, to discard them at the end.
"""

from jax_robust.attacks.apgd import apgd as apgd
from jax_robust.attacks.apgd import apgd_targeted as apgd_targeted
from jax_robust.attacks.autoattack import VERSIONS as VERSIONS
from jax_robust.attacks.autoattack import AutoAttackResult as AutoAttackResult
from jax_robust.attacks.autoattack import autoattack as autoattack  # hides the sub-package's name
from jax_robust.attacks.autoattack import make_autoattack as make_autoattack
from jax_robust.attacks.autoattack import make_stages as make_stages
from jax_robust.attacks.autoattack import read_version as read_version
from jax_robust.attacks.balls import BALLS as BALLS
from jax_robust.attacks.balls import Ball as Ball
from jax_robust.attacks.balls import l1_ball as l1_ball
from jax_robust.attacks.balls import l2_ball as l2_ball
from jax_robust.attacks.balls import linf_ball as linf_ball
from jax_robust.attacks.cw import cw_l2 as cw_l2
from jax_robust.attacks.cw import cw_search as cw_search
from jax_robust.attacks.ddn import ddn as ddn
from jax_robust.attacks.ddn import ddn_search as ddn_search
from jax_robust.attacks.eight_bits import to_uint8 as to_uint8
from jax_robust.attacks.fab import fab as fab
from jax_robust.attacks.fab import fab_targeted as fab_targeted
from jax_robust.attacks.inversion import invert as invert
from jax_robust.attacks.multi_exit import aimed as aimed
from jax_robust.attacks.multi_exit import largest_average as largest_average
from jax_robust.attacks.multi_exit import max_average as max_average
from jax_robust.attacks.multi_targeted import multi_targeted as multi_targeted
from jax_robust.attacks.multi_targeted import multi_targeted_search as multi_targeted_search
from jax_robust.attacks.pgd import bim as bim
from jax_robust.attacks.pgd import cw_linf as cw_linf
from jax_robust.attacks.pgd import fgsm as fgsm
from jax_robust.attacks.pgd import mim as mim
from jax_robust.attacks.pgd import n_fgsm as n_fgsm
from jax_robust.attacks.pgd import pgd as pgd
from jax_robust.attacks.pgd import rs_fgsm as rs_fgsm
from jax_robust.attacks.pgd_steps import adam as adam
from jax_robust.attacks.pgd_steps import piecewise_constant as piecewise_constant
from jax_robust.attacks.projections import onto_l1 as onto_l1
from jax_robust.attacks.projections import onto_l2 as onto_l2
from jax_robust.attacks.projections import onto_l2_and_box as onto_l2_and_box
from jax_robust.attacks.projections import onto_linf as onto_linf
from jax_robust.attacks.recipes import ATTACKS as ATTACKS
from jax_robust.attacks.recipes import OPTIMIZERS as OPTIMIZERS
from jax_robust.attacks.recipes import RECIPES as RECIPES
from jax_robust.attacks.recipes import make_attack as make_attack
from jax_robust.attacks.slowdown import class_universal_slowdown as class_universal_slowdown
from jax_robust.attacks.slowdown import slowdown as slowdown
from jax_robust.attacks.slowdown import universal_slowdown as universal_slowdown
from jax_robust.attacks.square import square as square
from jax_robust.attacks.transfer import transfer as transfer
from jax_robust.nets.devices import Devices as Devices
from jax_robust.nets.loops import default_unroll as default_unroll
