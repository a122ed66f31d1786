"""Images of your own: a folder for each class, an npz, or shards; any sizes, grey or colour.

  python -m jax_robust.main --config=configs/own_images.py:data=PHOTOS,size=64 --workdir=RUN
  python -m jax_robust.main --config=RUN/config.json --config.job=autoattack --workdir=RUN

PHOTOS holds `train` and `test`, each with a folder for every class; or the folders of the classes,
of whose images a share is kept for testing (`test_share=0.2`). Other forms: docs/own_data.md.
Where photos differ in size, `size` is needed: the shorter side is scaled to it, the centre kept.

Net, batch, augmentation and length go by the size of the images and by how many there are, which
get_config looks up; every value can be changed afterwards. Up to 16 pixels it is a small CNN, up to
96 PreActResNet-18, above that ResNet-50.

Run 2026-11-28 on two shared cores of an AMD EPYC, on 3,000 and 600 images of CIFAR-10 as PNGs with
sides of 32 to 71 pixels, size=16,epochs=4, killed after step 21 and resumed: clean .195, robust
.103 after 84 steps. That shows that it runs; at its full length, and with larger nets, it was not.

Arguments: `data`, `size` (0: as they are), `method=trades|adversarial|standard|gaussian`, `eps` (of
the l∞ ball, default 8/255), `sigma` (of the noise of `gaussian`), `epochs` (0: by the number of
images), `flip=false` for images with a left and a right, such as letters, `test_share`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets
from jax_robust.data import convert
from jax_robust.errors import ConfigError, UserError, check_name

_METHODS = ("trades", "adversarial", "standard", "gaussian")
_MOST_BYTES = 2**30  # of images that are kept on the device


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, data="", size=0, method="trades", eps=8 / 255, sigma=0.25, epochs=0, flip=True,
    test_share=0.2,
  )  # fmt: skip
  check_name("method", arg.method, _METHODS, error=ConfigError)
  num_images, shape = _look(arg)
  side = arg.size or min(shape[:2])
  config = presets.base()
  folder = arg.data or "FOLDER"  # which --config.data.name may replace
  config.data.update({
    "name": folder if "/" in folder else f"./{folder}", "image_size": arg.size,
    "num_heldout": min(1024, num_images // 10), "test_share": arg.test_share,
  })  # fmt: skip
  fits = num_images * side * side * shape[2] <= _MOST_BYTES
  config.batch.update({
    "size": 128 if num_images >= 2000 else 32, "original_share": 1.0, "emulated_workers": 0,
    "backend": "resident" if fits else "tfdata",
  })  # fmt: skip
  config.augment.update({"pad": side // 8, "flip": arg.flip, "label_smoothing": 0.0})
  config.model = {**_net(side), "mean": (0.5,), "std": (0.25,), "bn_group_size": None}
  _set_method(config, arg)
  config.schedule = {"name": "cosine", "learning_rate": 0.1, "warmup_share": 0.05}
  epochs = arg.epochs or (200 if num_images < 5000 else 100 if num_images < 100_000 else 50)
  config.total_epochs = float(epochs)
  config.evaluate_epochs = config.save_epochs = max(epochs / 20, 1.0)
  return presets.finish(config, arg)


def _look(arg):
  """How many images there are, and the shape of the first; those of CIFAR-10 without `data`."""
  if arg.smoke or not arg.data:
    return 50_000, (32, 32, 3)
  try:
    return convert.survey(arg.data)
  except UserError as error:
    raise ConfigError(f"data={arg.data}: {error}") from error


def _net(side):
  """A net for images of so many pixels."""
  if side <= 16:
    return {
      "name": "small_cnn", "channels": (32, 64), "strides": (1, 2), "activation": "swish",
    }  # fmt: skip
  if side <= 96:
    return {"name": "preact_resnet18", "activation": "swish"}
  return {"name": "resnet50"}


def _set_method(config, arg):
  """The training method, with what it is evaluated by."""
  attacked = presets.pgd40(eps=arg.eps)
  config.evals, config.select = presets.evals(attacked), ("robust", "max")
  if arg.method == "trades":
    config.attack = presets.trades_attack(eps=arg.eps)
    return
  config.objective = {"name": arg.method}
  if arg.method == "gaussian":
    config.objective = {"name": "gaussian", "sigma": arg.sigma}
    config.evals, config.select = presets.evals(noise=0.0), ("noisy", "max")
  if arg.method == "adversarial":
    config.attack = {
      "name": "pgd", "norm": "linf", "eps": arg.eps, "num_steps": 10, "step_size": arg.eps / 4,
      "loss": "cross_entropy",
    }  # fmt: skip
    return
  del config["attack"]
  if arg.method == "standard":
    config.select = ("clean", "max")
