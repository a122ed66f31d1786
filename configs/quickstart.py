"""TRADES on scikit-learn's digits with generated shards: everything, in a minute, no download.

  python -m jax_robust.main --config=configs/quickstart.py --workdir=/tmp/jax_robust_quickstart

It writes shards of a class-conditional Gaussian fit, trains a small net on originals and shards
through the same tf.data interleave, BatchNorm protocol, parameter average, checkpoints and
evaluation as a CIFAR-10 run, trains the same net on clean images only, and attacks both.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg)
  config = presets.base()
  config.job = "compare"
  config.trackers = ()
  config.data.update({"name": "digits", "num_heldout": 256})
  config.generate = {
    "method": "gaussian",
    "num_examples": 8000,
    "num_shards": 8,
    "covariance": "full",
  }
  config.batch.update({"size": 128, "original_share": 0.5, "emulated_workers": 2})
  config.augment.update({"pad": 0, "flip": False})
  config.model = {
    "name": "small_cnn", "channels": (16, 32), "strides": (1, 2), "activation": "swish",
    "bn_group_size": 64, "bn_momentum": 0.95,
  }  # fmt: skip
  eps = 0.15
  config.attack = presets.trades_attack(eps=eps)
  config.evals.robust.attack.eps = eps
  config.evaluation.update(
    {
      "eps_list": (0.03, 0.06, 0.09, 0.12, 0.15, 0.2, 0.25),
      "batch_size": 256,
      "checkpoint": "latest",
    }
  )
  config.optimizer.weight_decay = 5e-4
  config.schedule = {"name": "cosine", "learning_rate": 0.2, "warmup_steps": 20}
  config.ema.decay = 0.97
  del config.total_epochs, config.save_epochs, config.evaluate_epochs
  config.update({"total_steps": 240, "save_steps": 120, "evaluate_steps": 120, "log_steps": 40})
  config.runs = {
    "trades": {},
    "standard": {
      "objective": {"name": "standard"},
      "batch": {**config.batch.to_dict(), "original_share": 1.0},
    },
  }
  return presets.finish(config, arg)
