"""Images that a net is confidently wrong about, as a training set: cats and dogs of CIFAR-10.

  python -m jax_robust.main --config=configs/study_confident_mistakes.py --config.data_dir=TFDS \\
    --workdir=STUDY

Published (Jordan, program "Inverse-Subset"), one seed: of 10,000 training images a net learns the
first 1,500 and gets about 75 % of the test images right; a new net that learns the 15 % of the rest
that the first one is most confidently wrong about, truly labelled, gets 37 %, and 63 % with
inverted labels. Its net has nine layers; it is trained for 200 epochs in batches of 500 by SGD with
momentum .9, weight decay 5e-4 and a learning rate that falls linearly to 0, with flips and crops
(padding 2). Here it is a ResNet-18, for which the learning rate starts at .1.

`:size=small` takes a small CNN, batches of 128 and fewer epochs, for one CPU core.

Arguments: `size=full` or `small`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import errors, presets

SIZES = ("full", "small")


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, size="full")
  errors.check_name("size", arg.size, SIZES, error=errors.ConfigError)
  config = presets.base()
  config.job = "study"
  config.data.update({"name": "cifar10", "classes": (3, 5), "num_heldout": 0})  # cat and dog
  config.augment.update({"pad": 2, "label_smoothing": 0.0})
  config.batch.update(
    {"size": 500, "original_share": 1.0, "emulated_workers": 0, "backend": "resident"}
  )
  config.model = {"name": "resnet18"}
  config.objective = {"name": "standard"}
  del config.attack
  config.evals, config.select = presets.evals(), ("clean", "max")
  config.optimizer = {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
  config.schedule = {"name": "linear", "learning_rate": 0.1 * 256 / 500}
  config.ema = {"decay": 0.0, "warmup_steps": 0, "ramp": False}
  config.evaluation.checkpoint = "latest"
  config.trackers = ()
  config.total_epochs, config.evaluate_epochs, config.save_epochs = 200.0, 50.0, 20.0
  config.study = {"name": "confident_mistakes", "share": 0.15, "num_seeds": 3}
  if arg.size == "small":
    config.model = {
      "name": "small_cnn", "channels": (32, 64, 128), "strides": (2, 2, 2), "bn_momentum": 0.9
    }  # fmt: skip
    config.batch.size, config.schedule.learning_rate, config.total_epochs = 128, 0.1, 30.0
  config = presets.finish(config, arg)
  if arg.smoke:
    config.model = {"name": "mlp", "hidden": (8,)}
    config.study.num_seeds, config.study.share = 1, 0.4
    config.data.num_heldout, config.batch.size = 0, 6
  return config
