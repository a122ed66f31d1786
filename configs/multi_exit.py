"""Fast adversarial training of a multi-exit net: MSDNet, FGSM on all exits, penalised last layers.

  python -m jax_robust.main --config=configs/multi_exit.py --config.data_dir=TFDS --workdir=RUN
  python -m jax_robust.main --config=RUN/config.json --config.job=evaluate \\
    --config.evaluation.exit=0 --workdir=RUN

Chen et al. 2022 (Neural Networks 150) give the penalties and the number of blocks, five for
CIFAR-10 and seven for CIFAR-100; the rest is an inference from MSDNet's own recipe and from their
figures: SGD, a batch of 64, learning rate .1 and a tenth of it after 50 and 75 of 100 epochs. Their
text has FGSM start at the image, with a step of eps (`start=zero`); fast adversarial training
starts at random, with a step of 1.25 eps (`start=random`). 5,000 training images are held out, to
choose the thresholds of early exits by. Every evaluation measures each exit, as it is and under an
attack on the average of the exits, and looks for catastrophic overfitting; the run ends there with
`--config.overfitting.stop=true --config.evaluation.checkpoint=accepted`. Not run by us at this size
yet.

Arguments: `data=cifar10|cifar100|svhn`, `start=random|zero`, `blocks` (0 is the paper's number),
`steps=even|lin_grow`, `share`, the share of original images in a batch (below 1 with
`--config.generated.path`), `smoke`.
"""

from jax_robust import attacks, errors, presets
from jax_robust import config as config_lib

DATA = {"cifar10": ("cifar10", 5), "cifar100": ("cifar100", 7), "svhn": ("svhn_cropped", 5)}


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, data="cifar10", start="random", blocks=0, steps="even", share=1.0)
  errors.check_name("data", arg.data, DATA, error=errors.ConfigError)
  errors.check_name("start", arg.start, ("random", "zero"), error=errors.ConfigError)
  errors.check_name("steps", arg.steps, ("even", "lin_grow"), error=errors.ConfigError)
  name, blocks = DATA[arg.data]
  config = presets.base()
  config.data.update({"name": name, "num_heldout": 5000})
  config.batch.update({"size": 64, "original_share": arg.share, "emulated_workers": 0})
  config.augment.update({"label_smoothing": 0.0, "flip": arg.data != "svhn"})
  base, step = (4, 2) if arg.steps == "even" else (1, 1)
  config.model = {
    "name": "msdnet", "num_blocks": arg.blocks or blocks, "step_mode": arg.steps, "base": base,
    "step": step,
  }  # fmt: skip
  config.objective = {"name": "multi_exit", "penalty": "squared"}
  config.attack = {
    "name": "rs_fgsm" if arg.start == "random" else "fgsm", "norm": "linf", "eps": 8 / 255,
  }  # fmt: skip
  config.optimizer = {
    "name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4,
    "decay_batchnorm": True,
  }  # fmt: skip
  config.schedule = {"name": "milestones", "learning_rate": 0.1, "milestone_epochs": (50.0, 75.0)}
  config.ema = {"decay": 0.0, "warmup_steps": 0, "ramp": False}
  config.evals = presets.evals(dict(attacks.RECIPES["pgd_20"]))
  config.evals.update(presets.exit_evals(dict(attacks.RECIPES["pgd_20"])))
  config.overfitting = presets.overfitting()
  config.evaluation.checkpoint = "latest"
  config.total_epochs, config.evaluate_epochs, config.save_epochs = 100.0, 1.0, 1.0
  return presets.finish(config, arg)
