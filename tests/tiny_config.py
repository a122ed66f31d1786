"""A run of a second: TRADES on noise, a tiny net with BatchNorm, no TensorFlow.

Argument: `steps=N` and the cadences `save=`, `evaluate=`, `log=`, and `backend=tfdata`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, steps=6, save=2, evaluate=3, log=2, backend="resident")
  config = presets.base()
  config.trackers = ()
  config.data.update({"name": "made", "num_heldout": 8})
  config.generated.path = "made"
  config.batch.update(
    {"size": 8, "original_share": 0.5, "emulated_workers": 2, "backend": arg.backend}
  )
  config.augment.pad = 1
  config.model = {"name": "mlp", "hidden": (8,), "norm": True, "bn_group_size": None}
  ascent = {"name": "pgd", "norm": "linf", "eps": 0.1, "num_steps": 1, "step_size": 0.05}
  del config.attack, config.evals
  config.attack = {**ascent, "loss": "kl_divergence"}
  config.evals = presets.evals(ascent)
  config.evaluation.update({"batch_size": 8, "num_examples": 16})
  config.schedule = {"name": "cosine", "learning_rate": 0.1, "warmup_steps": 2}
  config.ema.decay = 0.9
  del config.total_epochs, config.save_epochs, config.evaluate_epochs
  config.update(
    {
      "total_steps": arg.steps,
      "save_steps": arg.save,
      "evaluate_steps": arg.evaluate,
      "log_steps": arg.log,
    }
  )
  return presets.finish(config, arg)
