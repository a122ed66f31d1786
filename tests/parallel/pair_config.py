"""The tiny run, smooth: neither ReLU nor sign, so that rounding stays rounding over many steps."""

import pathlib
import runpy

TINY = pathlib.Path(__file__).resolve().parent.parent / "tiny_config.py"


def get_config(arg=""):
  config = runpy.run_path(str(TINY))["get_config"](arg)
  config.batch.size = 32
  config.model = {
    "name": "mlp", "hidden": (16,), "norm": True, "bn_group_size": 8, "activation": "swish",
  }  # fmt: skip
  ascent = {"name": "pgd", "norm": "l2", "eps": 0.3, "num_steps": 1, "step_size": 0.2}
  config.attack = {**ascent, "loss": "kl_divergence"}
  config.evals.robust.attack = ascent
  config.schedule.learning_rate = 0.02
  config.generate = {"method": "gaussian", "num_examples": 41, "num_shards": 2, "chunk_size": 3}
  return config
