"""CERTIFY of weights from runs, exports, or safetensors or npz files, at one or several sigmas.

A run of ours brings its config and its sigma along:

  python -m jax_robust.main --config=RUN/config.json --config.job=certify --workdir=RUN

Several runs, or nets that were not trained under noise (TRADES, say), at sigmas of one's choice:

  python -m jax_robust.main --config=configs/certify_smoothing.py:data=mnist --workdir=WORKDIR \\
    --config.smoothing.weights=RUN,RUN --config.smoothing.sigma_list=0.25,0.5,1

Weights from elsewhere need their model named, as in configs/evaluate_autoattack.py:

  ... --config.init_from=WEIGHTS.safetensors --config.model.name=cifar_resnet \\
    --config.model.depth=110 --config.smoothing.sigma=0.5

The defaults are the literature's: n0 = 100, n = 100,000, alpha = .001, all test images;
`--config.smoothing.skip=20` certifies every 20th. The same command resumes at the last image. In
pieces:

  ... --config.smoothing.shard=0/16 --workdir=PIECES/00       and so on to 15/16, then
  ... --config.job=merge --config.smoothing.pieces='PIECES/*' --workdir=WHOLE

Arguments: `data`, the data set; `sigma` (0, the default, is what each run was trained under);
`smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets

MODELS = {
  "mnist": {"name": "lenet", "mean": (0.0,), "std": (1.0,)},
  "cifar10": {
    "name": "cifar_resnet", "depth": 110, "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
  },
}  # fmt: skip


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, data="cifar10", sigma=0.0, method="gaussian", m=0)
  config = presets.smoothing(arg, arg.data, {"gaussian": {}})
  config.job = "certify"
  # Nothing is trained; sigma 0 certifies each run under the noise that it was trained with.
  config.objective.sigma, config.smoothing.sigma = arg.sigma or 0.5, arg.sigma
  config.model = MODELS.get(arg.data, MODELS["cifar10"])
  config.schedule = {"name": "constant", "learning_rate": 0.1}
  return presets.finish(config, arg)
