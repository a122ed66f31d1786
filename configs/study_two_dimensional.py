"""What a net learns from another's adversarial examples, in the plane: half a minute, no data.

  python -m jax_robust.main --config=configs/study_two_dimensional.py --workdir=STUDY

The published example (Wallace, Distill 2019) is one seed: 15 adversarial points, of which a new net
learns to get 23 of the 32 original points right, where the larger class has 19. The text gives the
radius as .12, the figure's points lie .06 away; both are run here, with 40 seeds.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg)
  config = presets.base()
  config.job = "study"
  config.data.name = "made"  # the points are the study's own
  config.study = {"name": "two_dimensional", "num_seeds": 40, "radii": (0.06, 0.12)}
  if arg.smoke:
    config.study.update({"num_seeds": 2, "num_steps": 20, "hidden": (20, 20)})
  return config
