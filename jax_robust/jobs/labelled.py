"""What becomes of labelled images: duplicates, selection, shards, and a report."""

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jax_robust import bars
from jax_robust.atomic import write_atomically
from jax_robust.data import labels as labels_lib
from jax_robust.data import shard_writer
from jax_robust.data.sources import Samples, Source
from jax_robust.errors import ConfigError, DataFileError
from jax_robust.evaluate import image_plots, label_plots
from jax_robust.evaluate.intervals import summarise
from jax_robust.image_sets import duplicates, selection
from jax_robust.jobs.labelling import NO_LABEL, classes_of_run, open_reference, open_set
from jax_robust.jobs.origins import SHARDS, write_origins
from jax_robust.runs import pieces, workdir
from jax_robust.runs.blocks import from_config
from jax_robust.train import metrics

IN_SET = "set"
"""What a table of duplicates calls the set itself, beside 'train' and 'test'."""

_MOST_PAIRS = 12
"""That a picture of duplicates shows."""

_READ_AT_ONCE = 1024

Columns = Mapping[str, np.ndarray]


class Selected(NamedTuple):
  """The images that are kept of a set.

  Attributes:
    rows: of the set, in its order.
    steps: what each filter did, for the result.
    short: by label, how many images it lacks for equal numbers.
  """

  rows: np.ndarray
  steps: list[dict[str, Any]]
  short: Mapping[int, int]


def write_results(config: Any, path: pathlib.Path, work: pieces.Work) -> None:
  """Selects of the images whose labels are complete, and writes shards, origins and the results.

  Raises:
    ConfigError: no image is left, or the set can't be opened as it was labelled.
    DataFileError: an image is not the one that was labelled.
  """
  options, chosen = config.generate, work.identity["selection"]
  with from_config("generate"):
    wanted = classes_of_run(options.classifier)
    given = work.identity["options"]["given_labels"]
    source = open_set(config, options.path, wanted, given_labels=given)
    if source.num_examples != work.identity["num_examples"]:
      raise ConfigError(
        f"config.generate.path={options.path!r} has {source.num_examples} images, "
        f"{work.identity['num_examples']} were labelled: name the set that was labelled"
      )
    known = _columns(work)
    found = find_duplicates(config, source, known, chosen)
    selected = select(known, found, chosen, source, seed=work.identity["seed"])
  kept = {name: known[name][selected.rows] for name in
          ("index", "label", "given_label", "confidence")}  # fmt: skip
  labels_lib.warn_of_missing(kept["label"], source)
  _write_duplicates(config, path, source, found)
  write_report(path, work.identity, known, kept=kept, selected=selected)
  write_origins(path, kept, seed=work.identity["seed"])
  _write_shards(path, work.identity, source, known, selected.rows)


def _columns(work: pieces.Work) -> dict[str, np.ndarray]:
  """What is known of all images, in the order of the set."""
  parts = list(work.contents())
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "id"}


def find_duplicates(
  config: Any, source: Source, known: Columns, chosen: Mapping[str, Any]
) -> dict[str, duplicates.Found]:
  """The duplicates in the set itself and of each reference, by name; none where none are wanted."""
  if not chosen["without_duplicates"]:
    return {}
  is_near, distance = chosen["without_duplicates"] == "near", chosen["duplicate_distance"]
  if is_near:
    pairs = duplicates.near_pairs(known["thumbnail"], distance)
    found = {IN_SET: duplicates.near_within(source.num_examples, pairs)}
  else:
    found = {IN_SET: duplicates.exact_within(known["digest"])}
  for split in chosen["against"]:
    reference = open_reference(config, split, source)
    describe = duplicates.thumbnails if is_near else duplicates.pixel_digests
    count = lambda batch: len(batch[0])  # noqa: E731
    batches = bars.counted(reference.batches(), split, reference.num_examples, count)
    theirs = np.concatenate([describe(images) for images, _ in batches])
    found[split] = (
      duplicates.near_against(known["thumbnail"], theirs, distance)
      if is_near
      else duplicates.exact_against(known["digest"], theirs)
    )
  for name, each in found.items():
    metrics.report(f"{each.is_duplicate.sum()} images are duplicates of others of {name}")
  return found


def select(
  known: Columns,
  found: Mapping[str, duplicates.Found],
  chosen: Mapping[str, Any],
  source: Source,
  *,
  seed: int,
) -> Selected:
  """Applies the filters that are wanted, in the order that `labelling.label_images` says.

  Args:
    known: of all images: label, confidence and, for clusters, feature.
    found: the duplicates, by where they were looked for.
    chosen: the options of the selection.
    source: the set, for its number of classes and its name.
    seed: of draws, another one for each filter.

  Raises:
    ConfigError: a filter leaves no image.
  """
  rows, steps, short = np.arange(source.num_examples), [], {}

  def keep(name: str, mask: np.ndarray, **said: Any) -> None:
    nonlocal rows
    steps.append({"filter": name, "before": len(rows), "removed": int((~mask).sum()), **said})
    metrics.report(f"{name}: {mask.sum()} of {len(rows)} images are kept")
    if not mask.any():
      raise ConfigError(
        f"config.generate.{name} leaves none of {len(rows)} images of {source.name}: keep more"
      )
    rows = rows[mask]

  if found:
    is_duplicate = np.any([each.is_duplicate for each in found.values()], axis=0)
    counts = {name: int(each.is_duplicate.sum()) for name, each in found.items()}
    keep("without_duplicates", ~is_duplicate, duplicates=counts)
  if chosen["top_share"] < 1:
    label, confidence = known["label"][rows], known["confidence"][rows]
    mask = selection.top_share(label, confidence, chosen["top_share"])
    keep("top_share", mask, least_confidence=float(confidence[mask].min()))
  if chosen["clusters"]:
    features = known["feature"][rows]
    centres = selection.fit_clusters(features, chosen["clusters"], seed=seed)
    place = selection.place_among(features, centres)
    options = {"rule": chosen["cluster_rule"], "boundary_share": chosen["boundary_share"]}
    mask = selection.by_clusters(place, chosen["cluster_share"], seed=seed + 1, **options)
    keep("clusters", mask, sizes=np.bincount(place.cluster[mask]).tolist())
  if chosen["balance"] is not None:
    count, num_classes = chosen["balance"], source.num_classes
    balanced = selection.balance(known["label"][rows], num_classes, count=count, seed=seed + 2)
    short = balanced.short
    keep("balance", balanced.kept, count=balanced.count)
  if chosen["num_samples"] is not None:
    keep("num_samples", selection.random_subset(len(rows), chosen["num_samples"], seed=seed + 3))
  return Selected(rows, steps, short)


def write_report(
  path: pathlib.Path,
  belongs_to: Mapping[str, Any],
  columns: Columns,
  *,
  kept: Columns | None = None,
  selected: Selected | None = None,
) -> None:
  """Writes `results/labels.json` and its pictures: agreement, confidences, and what was selected.

  Args:
    path: the workdir.
    belongs_to: what the labels were made of.
    columns: `label` and `confidence` of all images, and `given_label` where some have one.
    kept: the same of the images that were selected; None where all were.
    selected: what the filters did.
  """
  names, num_classes = belongs_to.get("class_names", ()), belongs_to["num_classes"]
  whole = agreement(columns, num_classes)
  result = {**belongs_to, **whole}
  if kept is not None and selected is not None:
    called = names or list(map(str, range(num_classes)))
    short = {called[label]: count for label, count in selected.short.items()}
    result |= {"filters": selected.steps, "short": short, "kept": agreement(kept, num_classes)}
  workdir.write_result(path, "labels", result)
  results = path / "results"
  if "confusion" in whole:
    counts, confusion = np.array(whole["label_counts"]), np.array(whole["confusion"])
    label_plots.draw_labels_and_confusion(
      results / "labels.png", counts, confusion, names, rows="given", columns="classifier's"
    )
    metrics.report(f"the classifier gives {whole['agreement']:.1%} the label they came with")
  label_plots.draw_confidences(results / "confidences.png", *_histograms(columns, kept))


def agreement(columns: Columns, num_classes: int) -> dict[str, Any]:
  """How confident a classifier is of images, and how often it agrees with the labels they had.

  Args:
    columns: `label` and `confidence` `[n]`, and perhaps `given_label`, negative where there is
      none.
    num_classes: of the labels.
  """
  label, given = columns["label"], columns.get("given_label")
  found: dict[str, Any] = {
    **summarise({"confidence": columns["confidence"]}),
    "label_counts": np.bincount(label, minlength=num_classes).tolist(),
  }
  has_label = np.zeros(len(label), bool) if given is None else given != NO_LABEL
  if given is None or not has_label.any():
    return found
  label, given = label[has_label], given[has_label]
  confusion = np.zeros((num_classes, num_classes), int)
  np.add.at(confusion, (given, label), 1)
  shared = summarise({"agreement": label == given})
  return found | {
    "num_given": shared.pop("num_examples"), **shared, "confusion": confusion.tolist(),
  }  # fmt: skip


def _histograms(columns: Columns, kept: Columns | None) -> tuple[dict[str, np.ndarray], str]:
  """The confidences that a picture shows, by name, and what is said of those that are kept."""
  confidence, given = columns["confidence"], columns.get("given_label")
  if given is None or (given == NO_LABEL).all():
    shown = {"all images": confidence}
  else:
    agrees = given == columns["label"]
    shown = {"the given label": confidence[agrees], "another label": confidence[~agrees]}
  if kept is not None and len(kept["confidence"]) < len(confidence):
    shown["kept"] = kept["confidence"]
  return shown, "labels by the classifier"


def _write_duplicates(
  config: Any, path: pathlib.Path, source: Source, found: Mapping[str, duplicates.Found]
) -> None:
  """Writes `results/duplicates.csv`, a line for each, and a picture of some for each reference."""
  if not found:
    return
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(("image", "duplicate_of", "row", "distance"))
  for name, each in found.items():
    for row in np.flatnonzero(each.is_duplicate):
      writer.writerow((row, name, each.of[row], f"{each.distance[row]:.6f}"))
    _draw_duplicates(config, path, source, name, each)
  write_atomically(path / "results" / "duplicates.csv", text.getvalue())


def _draw_duplicates(config, path, source: Source, name: str, found: duplicates.Found) -> None:
  """Draws the pairs that are furthest apart, of which it is least clear, in that order."""
  rows = np.flatnonzero(found.is_duplicate)
  if not len(rows):
    return
  shown = rows[np.argsort(-found.distance[rows], kind="stable")][:_MOST_PAIRS]
  reference = source if name == IN_SET else open_reference(config, name, source)
  sides = {"image": (source, shown), f"of {name}": (reference, found.of[shown])}
  captions = [f"{row}" for row in shown] + [f"{found.distance[row]:.4f}" for row in shown]
  pictured = {
    side: image_plots.ImageRow(one.read(ids)[0], np.arange(len(shown)) + number * len(shown))
    for number, (side, (one, ids)) in enumerate(sides.items())
  }
  file = path / "results" / f"duplicates_{name}.png"
  image_plots.draw_image_rows(file, pictured, class_names=captions)


def _write_shards(path, belongs_to, source: Source, known: Columns, rows: np.ndarray) -> None:
  """Streams the images that are kept into shards, with their labels; held to their digests."""
  bar = bars.Bar("writing", len(rows))
  shard_writer.write_shards(
    path / SHARDS,
    _samples(source, known, rows),
    num_examples=len(rows),
    class_names=belongs_to.get("class_names", ()),
    progress_fn=lambda done, total: bar.move(done),
    **{
      name: belongs_to[name] for name in ("generator", "licence", "seed", "num_shards",
                                          "num_classes")
    },
  )  # fmt: skip


def _samples(source: Source, known: Columns, rows: np.ndarray) -> Iterator[Samples]:
  """Images and labels of these rows, some at a time."""
  for start in range(0, len(rows), _READ_AT_ONCE):
    some = rows[start : start + _READ_AT_ONCE]
    images, _ = source.read(some)
    same = (duplicates.pixel_digests(images) == known["digest"][some]).all(1)
    if not same.all():
      reason = f"image {some[~same][0]} is not the one that was labelled"
      raise DataFileError(
        source.name, reason, "The set was changed meanwhile: restore it, or use another --workdir."
      )
    yield images, known["label"][some]
