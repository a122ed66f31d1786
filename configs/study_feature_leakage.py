"""Robust feature leakage: what ten robust linear features tell of true classes in D_rand and D_det.

  python -m jax_robust.main --config=configs/study_feature_leakage.py --config.data_dir=TFDS \\
    --config.study.made_by=STUDY --workdir=LEAKAGE

STUDY is the workdir of a finished `configs/study_constructed_sets.py` of the same size.

Published (Goh, Distill 2019) on CIFAR-10: 23.5 % of the true test images are classified correctly
by what is learned from these features of D_rand, 6.81 % by D_det. How the linear classifier was
trained is not told; here it is adversarial training in l2 by PGD.

Arguments: `size=full` or `small`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  config = config_lib.load(f"study_constructed_sets:{arg}")
  arg = config_lib.parse_arg(arg, size="full")
  config.model = {"name": "mlp", "hidden": ()}
  config.objective = {"name": "adversarial"}
  config.attack = {
    "name": "pgd", "norm": "l2", "eps": 0.25, "num_steps": 5, "start": "zero",
  }  # fmt: skip
  config.evals, config.select = presets.evals(), ("clean", "max")
  config.augment.update({"pad": 0, "flip": False})
  config.schedule = {"name": "cosine", "learning_rate": 0.1}
  config.optimizer.weight_decay = 0.0
  config.evaluation.update({"num_examples": 0, "eps_list": ()})
  if not arg.smoke:
    config.total_epochs, config.evaluate_epochs, config.save_epochs = 20.0, 20.0, 5.0
  config.study = {"name": "feature_leakage", "made_by": "made" if arg.smoke else "", "radius": 0.25}
  return config
