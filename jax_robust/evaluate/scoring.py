"""Which images a net gets right, clean and under an attack: flags per image, then their means."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.types import ApplyFn, Attack, fold

_NOISE = 0x9015E  # a number for the noise's keys that no attack folds in


class Weights(NamedTuple):
  """What a scorer gets besides the images: data, so that one compiled scorer serves every weight.

  `eps` is the attack's radius and `rng` the key data that attacks fold example ids into.
  """

  params: Any
  model_state: Any
  eps: Any
  rng: Any


def make_scorer(
  apply_fn: ApplyFn,
  make_attack: Callable[[Any], Attack],
  *,
  precision: str = "highest",
  sigma: float = 0.0,
) -> Callable:
  """Builds `scorer(weights, batch) -> {name: [b]}`, for one device or as the body of a mapped step.

  Guarantees:
    `robust_implies_correct`: an image counts as robust only if it is classified correctly both
      clean and attacked, the attacked image re-scored in a pass of its own.
    `independent_of_batches`: an image's flags depend on its id, not on its neighbours.

  Args:
    apply_fn: the net.
    make_attack: `eps -> attack`, with a traced eps.
    precision: of matrix products and convolutions: accelerators default to TF32 or bfloat16, whose
      rounding can flip a prediction; 'highest' is float32.
    sigma: standard deviation of Gaussian noise for the flag `noisy`, that of the net at one draw
      for each image.

  Returns:
    A function of `Weights` and a batch of `image` uint8 `[b, h, w, c]`, `label` and `id` int32
    `[b]`. It returns flags `clean` and `robust`, `noisy` if sigma is above 0, and what a picture
    needs: `x_adv` `[b, h, w, c]`, and `probs` and `probs_adv` `[b, k]`.
  """

  def scorer(weights: Weights, batch: Mapping[str, Any]):
    x = jnp.asarray(batch["image"], jnp.float32) / 255.0
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.wrap_key_data(weights.rng), batch["id"]
    )

    def logits_fn(images):
      with jax.default_matmul_precision(precision):
        return apply_fn(weights.params, weights.model_state, images, train=False)[0]

    x_adv = make_attack(weights.eps)(logits_fn, x, batch["label"], keys)
    logits, logits_adv = logits_fn(x), logits_fn(x_adv)
    clean = _is_correct(logits, batch["label"])
    noisy = {}
    if sigma > 0:
      draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))
      noise = draw(fold(keys, _NOISE))
      noisy["noisy"] = _is_correct(logits_fn(x + sigma * noise), batch["label"])
    return {
      **noisy,
      "clean": clean,
      "robust": clean & _is_correct(logits_adv, batch["label"]),
      "x_adv": x_adv,
      "probs": jax.nn.softmax(logits),
      "probs_adv": jax.nn.softmax(logits_adv),
    }

  return scorer


def _is_correct(logits, labels):
  """Whether the largest logit is the label's; a NaN, which argmax prefers, makes it wrong."""
  return (jnp.argmax(logits, -1) == labels) & ~jnp.any(jnp.isnan(logits), -1)


def score(
  scorer: Callable,
  weights: Weights,
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  place: Callable[[Mapping[str, Any]], Any],
  names: tuple[str, ...] = ("clean", "robust"),
) -> dict[str, np.ndarray]:
  """Scores every example once and returns the fields of `names` in the order of the ids.

  Args:
    scorer: from `make_scorer`, compiled.
    weights: replicated over the devices.
    batches: from `data.eval_batches`; rows whose `mask` is False are padding.
    place: puts a host batch on the devices.
    names: which of the scorer's fields to keep.

  Returns:
    Arrays `[n, ...]`, and `label` and `id` `[n]`. With several processes, each gets all rows.
  """
  columns: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "label", "id")}
  for batch in batches:
    # The padding's id would wrap around in fold_in; its flags are dropped below.
    sent = {"image": batch["image"], "label": batch["label"], "id": np.maximum(batch["id"], 0)}
    result = scorer(weights, place(sent))
    rows = {name: _to_host(result[name]) for name in names}
    rows |= {name: _all_rows(batch[name]) for name in ("label", "id", "mask")}
    for name, column in columns.items():
      column.append(rows[name][rows["mask"]])
  if not columns["id"] or not sum(map(len, columns["id"])):
    raise ValueError("nothing to score: the source has no examples")
  merged = {name: np.concatenate(column) for name, column in columns.items()}
  order = np.argsort(merged["id"])
  return {name: column[order] for name, column in merged.items()}


def _to_host(rows: jax.Array) -> np.ndarray:
  """The rows of every process, on this host."""
  if jax.process_count() == 1:
    return np.asarray(rows)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def _all_rows(rows: np.ndarray) -> np.ndarray:
  """Gathers host rows of all processes in the order of the global batch."""
  if jax.process_count() == 1:
    return rows
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(rows, tiled=True))
