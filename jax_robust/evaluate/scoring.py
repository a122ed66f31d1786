"""Scoring: evaluators run over all images of a data set in batches, their columns gathered."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.evaluate.evaluators import Evaluator
from jax_robust.names import natural
from jax_robust.types import LogitsFn, fold_ids


class Weights(NamedTuple):
  """What a scorer gets besides the images: data, so that one compiled scorer serves all weights.

  Attributes:
    params, model_state: of the model.
    rng: key data, into which the ids of images are folded.
    options: `{evaluator: {option: array}}`, options that are traced, such as an attack's radius.
  """

  params: Any
  model_state: Any
  rng: Any
  options: Mapping[str, Mapping[str, Any]]


def make_scorer(
  make_logits_fn: Callable[[Any, Any], LogitsFn],
  evaluators: Mapping[str, Evaluator],
  others: Mapping[str, Callable[[Any, Any], Callable]] | None = None,
) -> Callable[[Weights, Mapping[str, Any]], dict[str, jax.Array]]:
  """Builds `scorer(weights, batch) -> columns`, for one device or as the body of a mapped step.

  Guarantees:
    `independent_of_batches`: an image's columns depend on its id, not on its neighbours.

  Args:
    make_logits_fn: `(params, model_state) -> logits_fn`.
    evaluators: by the name of what they measure, their options bound.
    others: for evaluators, by that name, that look at something else than the answer:
      `(params, model_state) -> what they take first`.

  Returns:
    A function of `Weights` and a batch of `image` uint8 `[b, h, w, c]`, `label` and `id` int32
    `[b]`. Of an evaluator NAME it returns the flags `correct`, if it has them, as column NAME, and
    its other columns as NAME/COLUMN.
  """

  def scorer(weights: Weights, batch: Mapping[str, Any]):
    if batch["image"].dtype != np.uint8:
      raise TypeError(f"image has dtype {batch['image'].dtype}: expected uint8, 0 to 255")
    x = jnp.asarray(batch["image"], jnp.float32) / 255.0
    keys = fold_ids(jax.random.wrap_key_data(weights.rng), batch["id"])
    logits_fn = make_logits_fn(weights.params, weights.model_state)
    columns, makers = {}, others or {}
    for name, evaluator in evaluators.items():
      options, subject = weights.options.get(name, {}), logits_fn
      if name in makers:
        subject = makers[name](weights.params, weights.model_state)
      found = dict(evaluator(subject, x, batch["label"], keys, **options))
      if "correct" in found:
        columns[name] = found.pop("correct")
      columns |= {f"{name}/{column}": values for column, values in found.items()}
    return columns

  return scorer


def measures(columns: Mapping[str, Any]) -> tuple[str, ...]:
  """The columns of one number per image, which are measured.

  The others are for pictures, and `NAME/lost` for a warning: see `lost`.

  >>> measures({"clean": np.ones(3), "exits/10": np.ones(3), "exits/9": np.ones(3),
  ...   "robust/probs": np.ones((3, 2))})
  ('clean', 'exits/9', 'exits/10')
  """
  names = {name for name, column in columns.items() if len(column.shape) == 1}
  return tuple(sorted(names - {*lost(columns)}, key=natural))


def lost(columns: Mapping[str, Any]) -> tuple[str, ...]:
  """The columns that say which images the evaluator NAME lost, to logits that were not finite.

  >>> lost({"robust": np.ones(3), "robust/lost": np.zeros(3)})
  ('robust/lost',)
  """
  return tuple(sorted(name for name in columns if name.endswith("/lost")))


def score(
  scorer: Callable,
  weights: Weights,
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  place: Callable[[Mapping[str, Any]], Any],
  names: Collection[str],
) -> dict[str, np.ndarray]:
  """Scores every example once and returns the columns of `names` in the order of the ids.

  Args:
    scorer: from `make_scorer`, compiled.
    weights: replicated over the devices.
    batches: from `data.eval_batches`; rows whose `mask` is False are padding.
    place: puts a host batch on the devices.
    names: which of the scorer's columns to keep.

  Returns:
    Arrays `[n, ...]`, and `label` and `id` `[n]`. With several processes, each gets all rows.
  """
  columns: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "label", "id")}
  for batch in batches:
    # The padding's id would wrap around in fold_in; its flags are dropped below.
    sent = {"image": batch["image"], "label": batch["label"], "id": np.maximum(batch["id"], 0)}
    result = scorer(weights, place(sent))
    rows = {name: _gather(result[name]) for name in names}
    rows |= {name: _gather(batch[name]) for name in ("label", "id", "mask")}
    for name, column in columns.items():
      column.append(rows[name][rows["mask"]])
  if not columns["id"] or not sum(map(len, columns["id"])):
    raise ValueError("nothing to score: the source has no examples")
  merged = {name: np.concatenate(column) for name, column in columns.items()}
  order = np.argsort(merged["id"])
  return {name: column[order] for name, column in merged.items()}


def _gather(rows: Any) -> np.ndarray:
  """The rows of all processes, in the order of the global batch, on this host."""
  if jax.process_count() == 1:
    return np.asarray(rows)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(rows, tiled=True))
