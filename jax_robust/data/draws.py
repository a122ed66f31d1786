"""Samples drawn by class: those that are held out, and the N that an evaluation looks at.

The first N of a set that is sorted by class are of one class. `order` mixes the classes instead, so
that every beginning of it has each class's share; drawn once and for all from `SEED`, it is the
same for a training and for the generator that must not see what it holds out.
"""

import heapq

import numpy as np

from jax_robust.data.sources import (
  Source,
  check_source,
  labels_of,
  select,
  subset,
  warn_if_sorted,
)
from jax_robust.errors import check_count, check_name, first_few

FIRST, BY_CLASS, AUTO = "first", "class", "auto"
RULES = (AUTO, FIRST, BY_CLASS)
"""How samples are drawn: `first` takes the first ones, as the papers do with the published sets,
whose order is random; `class` draws by class; `auto` is the former for data sets with a name, and
the latter for all others."""

SEED = 0


def rule_of(rule: str, name: str) -> str:
  """`first` or `class`: the rule itself, or what `auto` means for a data set.

  >>> rule_of("auto", "cifar10"), rule_of("auto", "/data/pets")
  ('first', 'class')
  """
  check_name("draw", rule, RULES)
  return (BY_CLASS if "/" in str(name) else FIRST) if rule == AUTO else rule


def order(labels: np.ndarray, *, seed: int = SEED) -> np.ndarray:
  """All samples in an order that mixes the classes, int64 [n]; at random within each class.

  Image j of the n_c of a class, counted from 0, gets a place between j n / n_c and (j + 1) n / n_c.
  Place after place goes to the image whose last possible place comes first, which meets all bounds.

  Guarantees:
    `every_beginning_is_stratified`: of any first m of n samples, each class has its share, m/n of
      its images, to within one.
    `same_everywhere`: it depends on the labels and the seed alone, for all versions of NumPy.

  Args:
    labels: integers [n].
    seed: of the draw, a whole number of at least 0.

  Raises:
    ValueError: labels or a seed that are none.

  >>> labels = np.repeat([0, 1], [6, 2])
  >>> labels[order(labels)][:4].tolist().count(1)
  1

  Reference: Baruah et al., "Proportionate progress", Algorithmica 1996; on one processor, the
  earliest deadline first.
  """
  labels = np.asarray(labels)
  if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iub":
    raise ValueError(
      f"labels have shape {labels.shape} and dtype {labels.dtype}: expected integers [n]; of "
      "one-hot labels, numpy.argmax(labels, 1)"
    )
  check_count(0, seed=seed)  # PCG64(None) draws a new order each time
  total = len(labels)
  # Raw bits and sorts: NumPy promises these for all its versions.
  bits = np.random.PCG64(seed).random_raw(2 * total)
  grouped = np.lexsort((bits[:total], labels))
  counts = np.unique(labels, return_counts=True)[1].tolist()
  starts, ties = np.cumsum([0, *counts]).tolist(), bits[total:].tolist()
  waiting = [(0, c, 0) for c in range(len(counts))]  # the first possible place, class, image
  ready: list[tuple[int, int, int, int]] = []  # the place before which, a tie, class, image
  chosen = np.empty(total, np.int64)
  for place in range(total):
    while waiting and waiting[0][0] <= place:
      _, c, image = heapq.heappop(waiting)
      before = -(-(image + 1) * total // counts[c])
      heapq.heappush(ready, (before, ties[starts[c] + image], c, image))
    _, _, c, image = heapq.heappop(ready)
    chosen[place] = grouped[starts[c] + image]
    if image + 1 < counts[c]:
      heapq.heappush(waiting, ((image + 1) * total // counts[c], c, image + 1))
  return chosen


def hold_out(source: Source, num_heldout: int, *, draw: str = BY_CLASS) -> tuple[Source, Source]:
  """Sets `num_heldout` samples aside: (train, heldout), both views of `source`.

  Args:
    source: images and labels.
    num_heldout: how many, at least one and not all.
    draw: `class`; or `first`, the first ones, for sets whose order is random, as that of the
      published ones is. Where they come sorted by class, that is warned of.

  Raises:
    TypeError: no source.
    ValueError: there are not as many, or a class would have no image left to train on.

  Reference: Rebuffi et al., Fixing Data Augmentation to Improve Adversarial Robustness, 2021, hold
  out the first 1,024 training images.
  """
  check_source(source)
  check_name("draw", draw, (FIRST, BY_CLASS))
  check_count(0, num_heldout=num_heldout)
  num_heldout = int(num_heldout)
  if not 0 < num_heldout < source.num_examples:
    raise ValueError(
      f"num_heldout={num_heldout}: expected 1 to {source.num_examples - 1}, "
      f"less than the number of samples of {source.name}"
    )
  if draw == FIRST:
    warn_if_sorted(source, num_heldout)
    return subset(source, num_heldout, source.num_examples), subset(source, 0, num_heldout)
  labels = labels_of(source)
  places = order(labels)
  kept = np.sort(places[num_heldout:])  # in the order of the set, as without a draw
  if lost := sorted(set(labels.tolist()) - set(labels[kept].tolist())):
    names = [source.class_names[label] if source.class_names else label for label in lost]
    raise ValueError(
      f"num_heldout={num_heldout}: no image of class {first_few(names)} is left to train on in "
      f"{source.name}; hold out fewer"
    )
  train = select(source, kept, f"{source.name} without {num_heldout} held out by class")
  return train, select(source, places[:num_heldout], f"{num_heldout} of {source.name} by class")


def take(source: Source, num_examples: int, *, draw: str = BY_CLASS) -> Source:
  """`num_examples` samples of a source, all of them for 0 or where it has no more.

  Args:
    source: images and labels.
    num_examples: how many, a whole number.
    draw: `class`, or `first`: see `hold_out`.

  Raises:
    TypeError: no source.
    ValueError: a number or a draw that is none.
  """
  check_source(source)
  check_name("draw", draw, (FIRST, BY_CLASS))
  check_count(0, num_examples=num_examples)
  num_examples = int(num_examples)
  if not num_examples or num_examples >= source.num_examples:
    return source
  if draw == FIRST:
    warn_if_sorted(source, num_examples)
    return subset(source, 0, num_examples)
  rows = order(labels_of(source))[:num_examples]
  return select(source, rows, f"{num_examples} of {source.name} by class")
