"""A config in a folder of its own, with a plug-in beside it: everything is the plug-in's."""

from jax_robust import config as config_lib
from jax_robust import presets

PARTS = ("attack", "method", "update", "net", "evaluator", "dataset", "generator", "job",
         "tracker")  # fmt: skip


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, objective="squeezed")
  config = presets.base()
  config.imports = tuple(f"robust_extras.{part}" for part in PARTS)
  config.data.update({"name": "stripes", "num_heldout": 16})
  config.model = {"name": "linear"}
  config.objective = {"name": arg.objective, "weight": 0.01}
  config.batch.update({"size": 16, "original_share": 1.0, "backend": "resident"})
  config.augment.update({"pad": 0, "flip": False, "label_smoothing": 0.0})
  corner = {"name": "random_corner", "norm": "linf", "eps": 0.1}
  del config.attack, config.evals
  config.evals = {**presets.evals(corner), "down": {"evaluator": "upside_down"}}
  config.evaluation.update({"batch_size": 16, "eps_list": (0.05,)})
  config.schedule = {"name": "constant", "learning_rate": 0.1}
  config.generate = {"method": "noise", "num_examples": 20}
  config.trackers, config.tracking = ("lines",), {"lines": {"file": "values.txt"}}
  del config.total_epochs, config.save_epochs, config.evaluate_epochs
  config.update({"total_steps": 8, "save_steps": 4, "evaluate_steps": 8, "log_steps": 4})
  return config
