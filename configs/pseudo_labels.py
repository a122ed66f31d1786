"""Labels of generated images by a classifier, and a selection of them, as shards to train on.

  python -m jax_robust.main --config=configs/pseudo_labels.py:data=cifar10 --workdir=SET \\
    --config.data_dir=TFDS --config.generate.path=IMAGES --config.generate.classifier=RUN

IMAGES are shards, an npz, a pack of JPEGs, class folders, or with
`--config.generate.given_labels=False` a folder of images alone. RUN is the workdir of a classifier
of the data set; one that was trained without an attack labels best, such as
`--config=configs/cifar10_adversarial.py:attack=none` trains. Then train on the shards by
`--config.generated.path=SET/generated`.

As in DM-Improves-AT (Wang et al., 2023) the most confident fifth of each class is kept. Images that
are near-duplicates of others, or of training or test images, are left out first.
`--config.generate.clusters=10` selects by clusters of the classifier's features, after Ghosh et
al., 2025; `--config.generate.balance=0` makes classes equal; `--explain=generate` tells of all.
What was measured: docs/generated.md.

Arguments: `data=cifar10` or another data set, `share` (kept of each class), `duplicates=near`,
`exact` or `none`, `smoke` (which has no images to label, and trains for two steps instead).
"""

from jax_robust import config as config_lib
from jax_robust import errors, presets

_DUPLICATES = {"near": "near", "exact": "exact", "none": ""}


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, data="cifar10", share=0.2, duplicates="near")
  errors.check_name("duplicates", arg.duplicates, _DUPLICATES, error=errors.ConfigError)
  config = presets.base()
  config.job = "train" if arg.smoke else "generate"
  config.data.name = arg.data
  config.generate = {
    "method": "label", "path": "", "classifier": "", "top_share": arg.share,
    "without_duplicates": _DUPLICATES[arg.duplicates], "num_shards": 8,
  }  # fmt: skip
  return presets.finish(config, arg)
