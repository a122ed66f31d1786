"""Every contract of the library, on one page.

Arrays come first and positional; hyper-parameters are keyword-only. Nothing here reduces over the
batch except an objective, whose result the loop differentiates.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Int

Outputs: TypeAlias = "Float[Array, 'b k'] | tuple[Float[Array, 'b k'], ...]"
"""What a classifier returns: logits, or a tuple of logits with an entry per exit (`nets.exits`)."""

Targets: TypeAlias = "Int[Array, ' b'] | Float[Array, 'b k']"
"""Labels or probability vectors (`errors.check_targets`): integers or bools `[b]` or `[b, 1]`, also
as a list; or `[b, k]`, one-hot or soft. Where a label is needed, it is the arg max.
"""

Images: TypeAlias = Float[Array | np.ndarray, "b *dims"]
"""A batch of images in [0, 1] (`errors.check_images`)."""

Rng: TypeAlias = Any
"""One key or one per example (`as_keys`): `jax.random.key(0)`, `jax.random.PRNGKey(0)`, a seed."""

LogitsFn: TypeAlias = Callable[..., Any]
"""`logits_fn(x) -> Outputs`: closed over weights, eval mode, inputs in [0, 1].

A randomised model takes `(x, rng)`: its second argument is called `rng` or `key`, or ends in that.
"""

LossFn: TypeAlias = Callable[[Any, Any], Array]
"""`loss_fn(outputs, targets) -> [b]`: per example, never reduced; attacks ascend it."""

Attack: TypeAlias = Callable[[LogitsFn, Any, Any, Any], Array]
"""`attack(logits_fn, x, targets, rng) -> x_adv`: any attack, its options bound by a partial.

`rng` is one key, or one key per example (shape `[b]`): see `as_keys`.
"""

ApplyFn: TypeAlias = Callable[..., tuple[Any, Any]]
"""`apply_fn(params, model_state, *inputs, train, rng=None) -> (outputs, model_state)`.

A classifier has one input, images; other nets have others. `rng` is one key, for dropout.
"""

Batch: TypeAlias = Mapping[str, Array]
"""What a step consumes: `image` float32 `[b, h, w, c]` in [0, 1], `target` float32 `[b, k]`,
`label` int32 `[b]`, `row` int32 `[b]` (the row's number in the global batch)."""

Metrics: TypeAlias = Mapping[str, Array]


class Progress(NamedTuple):
  """How far training has come, traced: `step` counts batches, `epoch` is fractional."""

  step: Int[Array, ""] | int
  epoch: Float[Array, ""] | float


Objective: TypeAlias = Callable[
  [ApplyFn, Any, Any, Batch, Array, Progress], tuple[Array, tuple[Any, Metrics]]
]
"""`(apply_fn, params, model_state, batch, rng, progress) -> (loss, (model_state, metrics))`."""

Update: TypeAlias = Callable[[Any, Batch], tuple[Any, Metrics]]
"""`update(state, batch) -> (state, metrics)`: what the loop calls once per batch.

- `state.step` counts batches, since it is also the position in the data: an update adds 1 to it,
  however many optimiser steps it makes.
- `metrics` holds scalars, among them `finite`: whether loss, gradients and parameters all are.
- `state.carry` is what an update keeps from one batch to the next, a dict that is checkpointed like
  the rest. What stands under its key `rows` has one row per row of the batch and is sharded
  like the batch; everything else is the same on every device. What an update does to a row must
  not depend on how many rows there are: take gradients in rows of a sum, not of a mean.
"""


class UpdateRecipe(NamedTuple):
  """A training method that is more than one gradient of one loss: an entry of `objectives.UPDATES`.

  The keyword-only parameters of `make_update` are the options that a config may set, besides those
  that the loop provides; all three functions are given all options.

  Attributes:
    make_update: `(apply_fn, *, prepare_batch, apply_gradients, **options) -> Update`, of the two
      halves of `train.step`: `prepare_batch(state, raw) -> Prepared` and
      `apply_gradients(state, grads, model_state, metrics) -> (state, metrics)`. One that also takes
      `num_microbatches` and `num_devices` can cut a batch; others are refused with micro-batches.
    init_carry: `(image_shape, batch_size, **options) -> carry`, at the start.
    updates_per_batch: `(**options) -> int`, optimiser steps per batch; schedules must know it.
  """

  make_update: Callable[..., Update]
  init_carry: Callable[..., dict[str, Any]] = lambda image_shape, batch_size, **options: {}
  updates_per_batch: Callable[..., int] = lambda **options: 1


class TrackedRun(NamedTuple):
  """What a tracker is told of a run when it is made.

  Attributes:
    folder: the workdir.
    name: what the run is called where its user names it nothing else.
    config: of the run, its values by key with dots.
    identity: what the tracker's `start` returned at an earlier start of this run; {} at the first.
  """

  folder: pathlib.Path
  name: str
  config: Mapping[str, Any]
  identity: Mapping[str, str]


class Tracker(Protocol):
  """Where the numbers of a run go besides its workdir; an entry of `trackers.TRACKERS` makes one.

  An entry is called as `entry(run, **options)` with a `TrackedRun`; its keyword-only parameters are
  the options that a config may set. It raises what the user can mend, such as a missing package.
  The methods are then called in a thread of the tracker's own. They may be slow, and they may fail:
  the run goes on, and nothing more is sent until the next start.

  Attributes:
    takes_results: whether the results of jobs are sent too, or the metrics of trainings alone.
  """

  takes_results: bool

  def start(self) -> Mapping[str, str]:
    """Begins the run, or opens it again; called once, before anything is sent.

    Returns:
      What the run is called there, which is kept in the workdir. Where it equals that of an earlier
      start, the steps that were sent then are not sent again.
    """
    ...

  def write(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Takes values by name at steps, in their order; when it returns, they have arrived."""
    ...

  def write_result(
    self, step: int, values: Mapping[str, float], files: Sequence[pathlib.Path]
  ) -> None:
    """Takes the numbers of a result, and the pictures that were drawn of it."""
    ...

  def close(self, finished: bool) -> None:
    """Ends this start of the run; `finished` says whether the job came to its end."""
    ...


def as_key(rng: Any) -> jax.Array:
  """One typed key, of what a user may give for it.

  Args:
    rng: `jax.random.key(seed)`; `jax.random.PRNGKey(seed)`; or the seed, an integer.

  Raises:
    TypeError: it is none of these, such as None or a float.
    ValueError: it is several keys.

  >>> bool(as_key(3) == as_key(jax.random.PRNGKey(3)))
  True
  """
  keys = typed_keys(rng)
  if keys.ndim:
    raise ValueError(f"rng holds keys of shape {keys.shape}: expected one, such as rng[0]")
  return keys


def as_keys(rng: Any, num_examples: int) -> jax.Array:
  """One typed key per example: `rng` itself if it is `[b]`, else `rng` folded with the row.

  Args:
    rng: as that of `as_key`; or a key per example, typed `[b]` or raw `[b, 2]`.
    num_examples: b.

  Raises:
    TypeError: as `as_key`.
    ValueError: another number of keys.

  >>> as_keys(0, 3).shape, as_keys(jax.random.split(jax.random.PRNGKey(0), 3), 3).shape
  ((3,), (3,))
  """
  keys = typed_keys(rng)
  if keys.ndim == 0:
    return fold_ids(keys, jax.numpy.arange(num_examples))
  if keys.shape != (num_examples,):
    raise ValueError(
      f"rng holds keys of shape {keys.shape}: expected one key, or one for each of {num_examples} "
      "images, jax.random.split(key, len(x))"
    )
  return keys


def typed_keys(rng: Any) -> jax.Array:
  """Seeds and raw keys as typed keys, in their shape; raises TypeError for anything else."""
  dtype = getattr(rng, "dtype", None)
  if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
    return rng
  if isinstance(rng, (int, np.integer)) and not isinstance(rng, (bool, np.bool_)):
    return jax.random.key(int(rng))
  if dtype is not None and jax.dtypes.issubdtype(dtype, np.integer):
    shape = np.shape(rng)
    if not shape:
      return jax.random.key(rng)
    if dtype == np.uint32 and shape[-1:] == jax.random.key_data(jax.random.key(0)).shape:
      return jax.random.wrap_key_data(jax.numpy.asarray(rng))
  said = f"an array of shape {np.shape(rng)} and dtype {dtype}" if dtype is not None else repr(rng)
  raise TypeError(
    f"rng is {said}: expected a key, jax.random.key(0), or one per image, jax.random.split(key, "
    "len(x)); raw keys of jax.random.PRNGKey and integer seeds will do too"
  )


def as_ids(ids: Any, num_images: int) -> np.ndarray:
  """The names of images for their randomness, int64 `[n]`: their places, where none are given.

  Raises:
    ValueError: another number of them, or no integers; one outside 0 to 2^32 - 1, of which the
      rest would be cut off; one that two images have, which would share their draws.

  >>> as_ids(None, 3).tolist(), as_ids([7, 5], 2).tolist()
  ([0, 1, 2], [7, 5])
  """
  ids = np.arange(num_images) if ids is None else np.asarray(ids)
  if ids.shape != (num_images,) or not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(
      f"ids have shape {ids.shape} and dtype {ids.dtype}: expected {num_images} integers, one per "
      "image"
    )
  if not 0 <= ids.min() <= ids.max() < 2**32:
    raise ValueError(f"ids from {ids.min()} to {ids.max()}: expected 0 to 2^32 - 1")
  if len(np.unique(ids)) < num_images:
    raise ValueError("ids: expected each id once, as images with the same id share their draws")
  return ids.astype(np.int64)


def fold(keys: jax.Array, number: Any) -> jax.Array:
  """Every example's key `[b]`, folded with one number."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def normals(keys: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
  """Standard normal `[b, *shape]`: each example's is that of its own key `[b]`.

  >>> normals(jax.random.split(jax.random.key(0), 3), (2, 2)).shape
  (3, 2, 2)
  """
  return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def fold_ids(key: jax.Array, ids: Any) -> jax.Array:
  """One key for each example `[b]`: one key, folded with each of their numbers `[b]`."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
