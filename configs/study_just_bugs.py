"""Adversarial examples that are just bugs: misleading to one net, meaningless to others.

  python -m jax_robust.main --config=configs/study_just_bugs.py --config.data_dir=TFDS \\
    --workdir=STUDY

Published (Nakkiran, Distill 2019) on CIFAR-10 with ResNet-18 and an ensemble of ten, l2 radius 2.5,
10 steps of .5: 82.5 % of the examples of PGD transfer to another net, and 1.7 % of the disentangled
ones; what is trained on these is right on 2.8 % of the true images, and on 70.8 % by the class
after the true one. How those nets were trained is not told.

Arguments: `size=full` or `small`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  config = config_lib.load(f"study_constructed_sets:{arg}")
  arg = config_lib.parse_arg(arg, size="full")
  config.objective = {"name": "standard"}
  del config.attack
  config.evals, config.select = presets.evals(), ("clean", "max")
  config.evaluation.update({"num_examples": 0, "eps_list": ()})
  moved = {"eps": 2.5, "num_steps": 10, "step_size": 0.5, "chunk_size": 500}
  config.study = {"name": "just_bugs", "moved": moved, "num_others": 10, "num_seeds": 1}
  if arg.size == "full" and not arg.smoke:
    config.model = {"name": "resnet18", "mean": config.model.mean, "std": config.model.std}
  elif not arg.smoke:
    config.data.train_split = "train[:10000]"
    config.study.update({"num_others": 4})
    moved = {"eps": 2.0, "num_steps": 20, "step_size": 0.3, "chunk_size": 250}
    config.study.moved.update(moved)
  else:
    config.study.update({"num_others": 1})
    config.study.moved.update({"num_steps": 2, "chunk_size": 36})
  return config
