"""Sets of images beside real ones: nearest neighbours, FID, KID, precision and recall.

  python -m jax_robust.main --config=configs/complementarity.py:data=cifar10 \\
    --config.data_dir=TFDS --config.complementarity.features=RUN --workdir=WORKDIR \\
    --config.complementarity.candidates='MINE=SHARDS/generated,heldout,noise,augment'

For each image of a candidate set, its nearest neighbour is looked for in train, in test and among
the others of its own set, in pools of one size. A set that is like fresh real images has a third of
them in each; one that repeats the training images has them in train; one that is far from real
images, or shows few things, has them in its own. Controls: `heldout`, test images outside the test
pool; `noise`; and every augmentation (`augment`, or `augment:cutout` for one).

The paper compares in the features of LPIPS: name an npz with its weights in place of RUN
(`jax_robust/image_sets/lpips.py` says how it is made). The features of a trained classifier, what
its last layer reads, are another space, and the result says which one it was.

Gowal et al., 2021, "Doing More with Less" (arXiv:2110.09468). What was found here:
docs/generated.md.

Arguments: `data=cifar10|mnist|fashion_mnist|…`, `smoke`, which trains two steps instead.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, data="cifar10")
  config = presets.base()
  config.job = "train" if arg.smoke else "complementarity"
  config.data.name = arg.data
  return presets.finish(config, arg)
