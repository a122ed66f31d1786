"""Randomized smoothing on ImageNet: ResNet-50 at 224 x 224, SmoothMix and its rivals.

  python -m jax_robust.main --config=configs/imagenet_smoothing.py:sigma=0.5 --workdir=RUN \
    --config.data.name=SHARDS
  python -m jax_robust.main --config=RUN/config.json --config.job=certify --workdir=RUN \
    --config.smoothing.skip=100

SHARDS is a folder with `train` and `validation`, each a folder of our own shards (they stay on the
disk; `jax_robust.data.tfds.tfds_stream` with image_size=224 makes them). Certified is every 100th
validation image, in the order of the shards: published logs differ in theirs.

No options for ImageNet are published, and nothing here was run by us at this size. Our choice:
one step of length 8 sigma and one noise an image, as alpha T = 8 sigma everywhere else and one long
step cost .003 of MNIST's average radius; eta = 1; 90 epochs, a tenth after 30 and 60; crops out of
28 pixels of padding and flips instead of random resized crops. `bn_group_size` 32 keeps BatchNorm
within a device.

Arguments: `method=gaussian|stability|smoothadv|macer|consistency|smoothmix`, `sigma`, `m` (0, the
default, is our choice), `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, method="smoothmix", sigma=0.5, m=0)
  objectives = {
    "gaussian": {},
    "stability": {"lbd": 2.0},
    "smoothadv": {"method": "pgd", "num_noise_vec": 1, "epsilon": 2 * arg.sigma, "num_steps": 1},
    "macer": {"lbd": 12.0, "num_noise_vec": 2},
    "consistency": {"lbd": 5.0, "num_noise_vec": 2},
    "smoothmix": {"num_noise_vec": 1, "alpha": 8 * arg.sigma, "num_steps": 1, "eta": 1.0},
  }
  config = presets.smoothing(arg, "imagenet2012", objectives)
  config.data.update({"name": "imagenet2012/shards", "test_split": "validation"})
  config.model = {
    "name": "resnet50", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    "bn_group_size": 32, "dtype": "bfloat16",
  }  # fmt: skip
  config.augment.pad = 28
  config.schedule = {"name": "milestones", "learning_rate": 0.1, "milestone_epochs": (30.0, 60.0)}
  config.total_epochs, config.evaluate_epochs, config.save_epochs = 90.0, 10.0, 1.0
  return presets.finish(config, arg)
