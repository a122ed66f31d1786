"""Diffusion models that generate images of a data set: MNIST, Fashion-MNIST or CIFAR-10.

  python -m jax_robust.main --config=configs/diffusion.py:data=mnist --config.data_dir=TFDS \\
    --workdir=RUN
  python -m jax_robust.main --config=RUN/config.json --config.job=generate \\
    --config.generate.net=RUN --workdir=SHARDS

then train on the shards by `--config.generated.path=SHARDS/generated` with any other config.

The preconditioning and noise of EDM (Karras et al., 2022), or with `precondition=epsilon` those of
DDPM (Ho et al., 2020). The nets are small, for two CPU cores, and so are batch and length; the
published nets for CIFAR-10 have 36 to 56 million parameters. A net is told the class of nine
images in ten: samples need labels, and a denoiser in front of a classifier has none. The metric
`error/S` is the root mean square error of denoising held-out images under noise S, and the best
checkpoint has the least at .5.

Arguments: `data=mnist|fashion_mnist|cifar10`, `precondition=edm|epsilon`, `width`,
`steps`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets

WIDTHS = {"mnist": 32, "fashion_mnist": 32, "cifar10": 64}


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, data="mnist", precondition="edm", width=0, steps=6000)
  config = presets.base()
  config.data.name = arg.data
  config.data.num_heldout = 1000
  config.model = {
    "name": "unet", "width": arg.width or WIDTHS[arg.data], "multipliers": (1, 2),
    "num_blocks": 1, "attention": (1,), "num_labels": 10, "patch_size": 2,
    "precondition": arg.precondition,
  }  # fmt: skip
  config.objective = {"name": "denoising", "precondition": arg.precondition}
  config.objective.label_dropout = 0.1
  del config.attack
  config.evals = {"error": {"evaluator": "denoising_error"}}
  config.select = ("error/0.5", "min")
  config.batch.update(
    {"size": 128, "original_share": 1.0, "emulated_workers": 0, "backend": "resident"}
  )
  config.augment.update({"pad": 0, "flip": arg.data == "cifar10", "label_smoothing": 0.0})
  config.optimizer = {"name": "adam"}
  config.schedule = {"name": "constant", "learning_rate": 1e-3}
  config.generate = {"method": "diffusion", "num_samples": 10000, "num_shards": 8}
  config.ema.decay = 0.999
  del config.total_epochs, config.save_epochs, config.evaluate_epochs
  config.update({"total_steps": arg.steps, "save_steps": 500, "evaluate_steps": 1000})
  return presets.finish(config, arg)
