"""Attacks: pure functions `attack(logits_fn, x, targets, rng, *, ball, ...) -> x_adv`."""

from jax_robust.attacks.balls import BALLS as BALLS
from jax_robust.attacks.balls import Ball as Ball
from jax_robust.attacks.balls import l1_ball as l1_ball
from jax_robust.attacks.balls import l2_ball as l2_ball
from jax_robust.attacks.balls import linf_ball as linf_ball
from jax_robust.attacks.gradient import default_unroll as default_unroll
from jax_robust.attacks.gradient import pgd as pgd
from jax_robust.attacks.projections import onto_l1 as onto_l1
from jax_robust.attacks.projections import onto_l2 as onto_l2
from jax_robust.attacks.projections import onto_l2_and_box as onto_l2_and_box
from jax_robust.attacks.projections import onto_linf as onto_linf
from jax_robust.attacks.recipes import ATTACKS as ATTACKS
from jax_robust.attacks.recipes import OPTIMIZERS as OPTIMIZERS
from jax_robust.attacks.recipes import RECIPES as RECIPES
from jax_robust.attacks.recipes import make_attack as make_attack
from jax_robust.attacks.single_step import fgsm as fgsm
from jax_robust.attacks.single_step import n_fgsm as n_fgsm
from jax_robust.attacks.single_step import rs_fgsm as rs_fgsm
from jax_robust.attacks.steps import adam as adam
from jax_robust.attacks.steps import piecewise_constant as piecewise_constant
from jax_robust.attacks.transforms import exit_at as exit_at
from jax_robust.attacks.transforms import mean_of_exits as mean_of_exits
