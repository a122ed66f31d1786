"""AutoAttack, or AA+MT, of weights from a run, an export, or a safetensors or npz file.

A run of ours brings its config along:

  python -m jax_robust.main --config=RUN/config.json --config.job=autoattack --workdir=RUN

Weights from elsewhere need their model named; this config is for CIFAR-10 and a WideResNet:

  python -m jax_robust.main --config=configs/evaluate_autoattack.py --workdir=WORKDIR \\
    --config.init_from=WEIGHTS.safetensors --config.model.depth=28 --config.model.width=10 \\
    --config.data_dir=TFDS --config.autoattack.eps=8/255

A PyTorch state dict says itself which net it is (docs/pytorch.md):

  ... --config.init_from=WEIGHTS.safetensors --config.model.name=from_weights \\
    --config.init_check=CHECK.npz

`--config.autoattack.version` is standard, plus, rand or aa+mt, or attacks: apgd-ce,fab-t. More
radii: `--config.evaluation.eps_list=2/255,4/255`. The same command resumes at the last chunk. In
pieces:

  ... --config.autoattack.shard=0/16 --workdir=PIECES/00       and so on to 15/16, then
  ... --config.job=merge --config.autoattack.pieces='PIECES/*' --workdir=WHOLE
"""

from jax_robust import config as config_lib
from jax_robust import errors, presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, norm="linf", version="standard")
  config = presets.base()
  config.job = "autoattack"
  config.autoattack.version = arg.version
  radii = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}
  if arg.norm not in radii:
    raise errors.ConfigError(f"norm={arg.norm!r}: expected one of {', '.join(radii)}")
  config.autoattack.update({"norm": arg.norm, "eps": radii[arg.norm]})
  config.evaluation.batch_size = 256
  return presets.finish(config, arg)
