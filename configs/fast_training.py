"""Fast adversarial training, of multi-exit nets above all: nine methods, one family, one net.

  python -m jax_robust.main --config=configs/fast_training.py --config.data_dir=TFDS --workdir=RUN
  python -m jax_robust.main --config=RUN/config.json --config.job=early_exit --workdir=RUN
  for method in standard pgd_7 pgd_10 trades free fast_fgsm n_fgsm grad_align multi_exit; do
    python -m jax_robust.main --config=configs/fast_training.py:method=$method,recipe=common \\
      --config.data_dir=TFDS --workdir=RUNS/$method
  done

Chen et al. 2022 (Neural Networks 150) compare `multi_exit` with the others. They give its
penalties and the number of blocks, five for CIFAR-10 and seven for CIFAR-100. Their text has FGSM
start at the image, with a step of eps (`start=zero`); fast adversarial training starts at random,
with a step of 1.25 eps (`start=random`). Their networks and schedules are not known: by their times
all ran MSDNet. `recipe=own` is what each method was published with, `recipe=common` that of
`multi_exit` for all. Not run by us at this size yet.

5,000 training images are held out, to choose the thresholds of early exits by. Every evaluation
measures each exit, as it is and under an attack on the average of the exits, and looks for
catastrophic overfitting. `fast_fgsm` ends there, with the weights before it, as published, but for
the images, which are held out; the others do with
`--config.overfitting.stop=true --config.evaluation.checkpoint=accepted`.

| method | own epochs | peak rate, schedule | batch | decay | after |
|---|---|---|---|---|---|
| standard | 300 | .1, a tenth at 1/2 and 3/4 | 64 | 1e-4 | MSDNet's program |
| pgd_7 | 15 | .2, cyclic | 128 | 5e-4 | "Fast is better than free", its PGD |
| pgd_10 | 204.8 | .1, a tenth at 1/2 and 3/4 | 128 | 2e-4 | Madry et al., 80,000 steps |
| trades | 76 | .1, a tenth at epoch 75 | 128 | 2e-4 | TRADES' program |
| free | 80 in 10 | .04, cyclic | 128 | 5e-4 | Free-8 in "Fast is better than free" |
| fast_fgsm | 15 | .2, cyclic | 128 | 5e-4 | "Fast is better than free" |
| n_fgsm | 30 | .2, cyclic | 128 | 5e-4 | de Jorge et al. |
| grad_align | 30 | .3, cyclic, peak at 2/5 | 128 | 5e-4 | Andriushchenko and Flammarion |
| multi_exit | 100 | .1, a tenth at 1/2 and 3/4 | 64 | 1e-4 | inferred from their figures |

An epoch of `free` uses each batch eight times: its 80 epochs of optimiser steps are 10 over the
data, and `recipe=common` gives it an eighth of the epochs, so that all methods make equally many
steps. For SVHN `free`, `n_fgsm` and `grad_align` take the rates, epochs and lambda of their papers;
the radius that those let grow over the first epochs is at its full size here from the start.
Cyclic is 0 to the peak to 0, linearly and step by step. SGD with momentum .9 throughout; Nesterov
never. All attacks have `eps` (TRADES' program has .031), and steps in proportion to it.

Arguments: `method`, `recipe=own|common`, `epochs` of the common recipe, `data=cifar10|cifar100|
svhn`, `net=msdnet|preact_resnet18|small`, of MSDNet `exits=all|last`, `blocks` (0 is the paper's
number) and `steps=even|lin_grow`, `start=random|zero` of `multi_exit` and `fast_fgsm`, `eps`,
`share`, the share of original images in a batch (below 1 with `--config.generated.path`), `smoke`.
"""

from typing import Any, NamedTuple

from jax_robust import attacks, errors, presets
from jax_robust import config as config_lib
from jax_robust.objectives.multi_exit import PUBLISHED_PENALTIES

DATA = {"cifar10": ("cifar10", 5), "cifar100": ("cifar100", 7), "svhn": ("svhn_cropped", 5)}
NETS = ("msdnet", "preact_resnet18", "small")
REPLAYS = 8


class Recipe(NamedTuple):
  """Epochs over the data, the schedule in shares of them, and the optimiser's constants."""

  epochs: float
  rate: float
  drops: tuple[float, ...] = ()  # none: cyclic
  peak: float = 0.5
  batch: int = 128
  decay: float = 5e-4


COMMON = Recipe(100.0, 0.1, (0.5, 0.75), batch=64, decay=1e-4)
OWN = {
  "standard": COMMON._replace(epochs=300.0),
  "pgd_7": Recipe(15.0, 0.2),
  "pgd_10": Recipe(204.8, 0.1, (0.5, 0.75), decay=2e-4),
  "trades": Recipe(76.0, 0.1, (75 / 76,), decay=2e-4),
  "free": Recipe(10.0, 0.04),
  "fast_fgsm": Recipe(15.0, 0.2),
  "n_fgsm": Recipe(30.0, 0.2),
  "grad_align": Recipe(30.0, 0.3, peak=0.4),
  "multi_exit": COMMON,
}
OWN_ON_SVHN = {
  "free": Recipe(45 / REPLAYS, 0.01),
  "n_fgsm": Recipe(30.0, 0.05, peak=0.4),
  "grad_align": Recipe(15.0, 0.05, peak=0.4),
}


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, method="multi_exit", recipe="own", epochs=0.0, data="cifar10", net="msdnet", exits="all",
    blocks=0, steps="even", start="random", eps=8 / 255, share=1.0,
  )  # fmt: skip
  choices = {
    "method": OWN, "recipe": ("own", "common"), "data": DATA, "net": NETS,
    "exits": ("all", "last"), "steps": ("even", "lin_grow"), "start": ("random", "zero"),
  }  # fmt: skip
  for name, known in choices.items():
    errors.check_name(name, arg[name], known, error=errors.ConfigError)
  config = presets.base()
  config.data.update({"name": DATA[arg.data][0], "num_heldout": 5000})
  config.augment.update({"label_smoothing": 0.0, "flip": arg.data != "svhn"})
  config.batch.update({"original_share": arg.share, "emulated_workers": 0})
  config.model = model(arg)
  set_method(config, arg)
  set_recipe(config, recipe(arg))
  config.ema = {"decay": 0.0, "warmup_steps": 0, "ramp": False}
  set_evaluation(config, arg)
  config.evaluate_epochs = config.save_epochs = 1.0
  return presets.finish(config, arg)


def model(arg) -> dict:
  """The net, its BatchNorm over the whole batch, with PyTorch's running averages."""
  if arg.exits != "all" and arg.net != "msdnet":
    raise errors.ConfigError(f"exits={arg.exits!r}: net={arg.net!r} has one exit; expected 'all'")
  if arg.net == "msdnet":
    base, step = (4, 2) if arg.steps == "even" else (1, 1)
    return {
      "name": "msdnet", "num_blocks": num_blocks(arg), "step_mode": arg.steps, "base": base,
      "step": step, "exits": arg.exits,
    }  # fmt: skip
  return {"name": {"small": "small_cnn"}.get(arg.net, arg.net), "bn_momentum": 0.9}


def num_blocks(arg) -> int:
  """The blocks of MSDNet."""
  return arg.blocks or DATA[arg.data][1]


def attack(name: str, eps: float, **changes) -> dict:
  """A published attack at another radius, its steps in proportion."""
  recipe: dict[str, Any] = dict(attacks.RECIPES[name])
  return {**recipe, "eps": eps, "step_size": recipe["step_size"] * eps / recipe["eps"], **changes}


def set_method(config, arg) -> None:
  """The objective and its attack."""
  method, eps = arg.method, arg.eps
  if arg.start == "zero" and method not in ("multi_exit", "fast_fgsm"):
    raise errors.ConfigError(
      f"start='zero': expected 'random' with method={method!r}; only 'multi_exit' and 'fast_fgsm' "
      "have another"
    )
  objective: dict[str, Any] = {"name": "adversarial"}
  single_step = {"name": "rs_fgsm", "norm": "linf", "eps": eps}
  if arg.start == "zero":
    single_step["name"] = "fgsm"
  chosen = {
    "pgd_7": lambda: attack("pgd_7", eps),
    "pgd_10": lambda: attack("pgd_10", eps),
    "trades": lambda: attack("trades_2019", eps, loss="kl_divergence"),
    "n_fgsm": lambda: {**single_step, "name": "n_fgsm"},
    "fast_fgsm": lambda: single_step,
    "multi_exit": lambda: single_step,
  }
  del config.attack
  if method in chosen:
    config.attack = chosen[method]()
  if method == "standard":
    objective = {"name": "standard"}
  elif method == "trades":
    objective = {
      "name": "trades", "beta": 6.0, "attack_statistics": "running", "clean_pass_updates": True,
    }  # fmt: skip
  elif method == "free":
    objective = {"name": "free", "eps": eps, "num_replays": REPLAYS}
  elif method == "grad_align":
    objective = {"name": "grad_align", "eps": eps}
    if arg.data == "svhn":
      objective["lbd"] = 2.5**2 / 4 * 1.6 ** (255 * eps / 8)
  elif method == "multi_exit":
    objective = {"name": "multi_exit", "penalty": "squared"}
    if arg.exits == "last":  # the lambda that this exit has among the others
      last = min(num_blocks(arg), len(PUBLISHED_PENALTIES)) - 1
      objective["penalties"] = (PUBLISHED_PENALTIES[last],)
  config.objective = objective


def set_evaluation(config, arg) -> None:
  """What is measured every epoch, of each exit, and what counts as catastrophic overfitting."""
  config.evals = presets.evals(attack("pgd_20", arg.eps))
  if arg.net == "msdnet" and arg.exits == "all":
    config.evals.update(presets.exit_evals(attack("pgd_20", arg.eps)))
  config.overfitting = presets.overfitting(attack=attack("pgd_10", arg.eps))
  config.evaluation.checkpoint = "latest"
  if arg.method == "fast_fgsm":
    config.overfitting = presets.overfitting(
      stop=True, gap=0.0, lost=0.0, num_images=128, attack=attack("pgd_10", arg.eps, num_steps=5)
    )
    config.evaluation.checkpoint = "accepted"


def recipe(arg) -> Recipe:
  """The method's own recipe, or the common one in as many optimiser steps."""
  if arg.recipe == "own":
    if arg.epochs:
      raise errors.ConfigError(f"epochs={arg.epochs:g} is an argument of recipe=common")
    own = {**OWN, **(OWN_ON_SVHN if arg.data == "svhn" else {})}
    return own[arg.method]
  epochs = arg.epochs or COMMON.epochs
  return COMMON._replace(epochs=epochs / (REPLAYS if arg.method == "free" else 1))


def set_recipe(config, recipe: Recipe) -> None:
  """Batch, optimiser, schedule and length."""
  config.batch.size = recipe.batch
  config.optimizer = {
    "name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": recipe.decay,
    "decay_batchnorm": True,
  }  # fmt: skip
  config.schedule = {"name": "linear", "learning_rate": recipe.rate, "warmup_share": recipe.peak}
  if recipe.drops:
    milestones = tuple(share * recipe.epochs for share in recipe.drops)
    config.schedule = {
      "name": "milestones", "learning_rate": recipe.rate, "milestone_epochs": milestones,
    }  # fmt: skip
  config.total_epochs = recipe.epochs
