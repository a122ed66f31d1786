"""Data sets that TensorFlow Datasets has prepared, read into RAM or streamed."""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np

from jax_robust.data import scales
from jax_robust.data.sources import (
  Samples,
  Source,
  Stream,
  array_source,
  label_problem,
  shape_problem,
)
from jax_robust.data.tf_import import import_tensorflow
from jax_robust.errors import DataFileError, check_flag, near_miss

NAMES = ("cifar10", "cifar100", "svhn_cropped", "mnist", "fashion_mnist")
"""Data sets with a name; all others are given by the folder of a prepared TFDS builder."""

_PREPARE_AGAIN = "Delete that folder and prepare the dataset again."


def load_tfds(
  name: str,
  split: str,
  *,
  data_dir: str | None = None,
  image_size: int | None = None,
  download: bool = False,
  max_bytes: int = 8 << 30,
) -> Source:
  """Reads a split of a TFDS dataset into RAM.

  Guarantees:
    `stable_order`: the samples come record by record, file by file, as they lie on the disk, in
      every run and on every machine that holds the same prepared files.
    `no_gpu`: TensorFlow sees no accelerator, and takes no memory of one.

  Args:
    name: One of `NAMES`, or the folder of a prepared builder (`…/imagenet2012/5.1.0`), the way to
      TinyImageNet, ImageNet and data of your own.
    split: "train", "test", or any split that TFDS understands, such as "train[:5000]".
    data_dir: Where prepared datasets lie; None is TFDS's own default (`~/tensorflow_datasets`).
    image_size: Shorter side in pixels after resizing, then a centre crop to a square. Required
      where images differ in size.
    download: Let TFDS download and prepare what is not there yet.
    max_bytes: Refuse a set that would take more RAM than this; `tfds_stream` makes shards of it.

  Returns:
    The source.

  Raises:
    DataFileError: if the dataset is not prepared in `data_dir`, too large, or damaged.
    ValueError: for an unknown name or split, and for images that differ in size without
      `image_size`.
    ImportError: without tensorflow and tensorflow-datasets.
  """
  stream = tfds_stream(name, split, data_dir=data_dir, image_size=image_size, download=download)
  num_bytes = stream.num_examples * int(np.prod(stream.image_shape))
  if num_bytes > max_bytes:
    raise DataFileError(
      stream.name,
      f"its {stream.num_examples} images take {num_bytes / 2**30:.1f} GiB of RAM, "
      f"more than max_bytes={max_bytes}",
      "Make shards of it, data.convert.make_shards(data.tfds.tfds_stream(...), folder), "
      "and train from the folder.",
    )
  images = np.empty((stream.num_examples, *stream.image_shape), np.uint8)
  labels = np.empty(stream.num_examples, np.int32)
  start = 0
  for batch_images, batch_labels in stream.batches():
    stop = start + len(batch_labels)
    images[start:stop], labels[start:stop] = batch_images, batch_labels
    start = stop
  return array_source(
    images,
    labels,
    num_classes=stream.num_classes,
    name=stream.name,
    class_names=stream.class_names,
  )


def tfds_stream(
  name: str,
  split: str,
  *,
  data_dir: str | None = None,
  image_size: int | None = None,
  download: bool = False,
) -> Stream:
  """Streams what `load_tfds` reads, in the same order, in constant memory."""
  check_flag(download=download)
  folder = _checked_folder(name) if "/" in name else ""
  tf, tfds = _import()
  builder = _builder_of_folder(tfds, folder) if folder else _builder(tfds, name, data_dir, download)
  num_examples = _num_examples(builder, split)
  features = builder.info.features
  check_features(tfds, features, name)
  height, width, channels = features["image"].shape
  if image_size is None and None in (height, width):
    raise ValueError(
      f"image_size=None: the images of {name} differ in size; expected pixels, "
      "such as image_size=64 (TinyImageNet) or 224 (ImageNet)"
    )
  shape = (height, width, channels) if image_size is None else (image_size, image_size, channels)
  where, num_classes = f"{builder.info.name} {split}", features["label"].num_classes
  failures: list[ValueError] = []
  prepare_fn = functools.partial(_prepare, tf, image_size, features["image"], failures)
  dataset = builder.as_dataset(
    split=split,
    shuffle_files=False,
    # A cycle of one file: the order of the records does not depend on how many files there are.
    read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
  ).map(lambda e: (prepare_fn(e["image"]), e["label"]), num_parallel_calls=2, deterministic=True)
  batches = functools.partial(
    _batches, tf, dataset.batch(256).prefetch(2), builder.data_dir, num_examples, num_classes,
    failures,
  )  # fmt: skip
  names = tuple(features["label"].names)
  return Stream(where, num_examples, shape, num_classes, batches, class_names=names)


def check_features(tfds, features, name: str) -> None:
  """Raises ValueError unless a data set's features are an image and its class, and says why.

  What counts is what the features are declared as, before anything is cast.
  """
  for key in ("image", "label"):
    if key not in features:
      raise ValueError(
        f"{name}: has no feature {key!r}, only {sorted(features)}; "
        "expected a classification dataset with 'image' and 'label'"
      )
  image, label, kinds = features["image"], features["label"], tfds.features
  problem = remedy = ""
  shape = getattr(image, "shape", None)
  if not isinstance(image, (kinds.Image, kinds.Tensor)) or shape is None or len(shape) != 3:
    problem = f"the feature 'image' is {image}"
    remedy = "expected features.Image(shape=(height, width, 1 or 3))"
    if shape is not None and len(shape) == 2:
      remedy += ": give grey images their axis by image[..., None]"
  elif found := shape_problem([1, *(64 if size is None else size for size in shape)]):
    problem, remedy = f"the feature 'image' has shape {shape}", found.partition(": ")[2]
    remedy = "expected (height, width, 1 or 3)" + (f": {remedy}" if remedy else "")
    remedy = remedy.replace("(0, 2, 3, 1)", "(1, 2, 0)").replace("images", "image")
  elif (dtype := np.dtype(image.np_dtype)) not in (np.uint8, np.uint16) and dtype.kind != "f":
    problem = f"the feature 'image' has dtype {dtype}, expected uint8"
    remedy = f"prepare the set again{scales.remedy(dtype)}"
  elif not isinstance(label, kinds.ClassLabel):
    problem, remedy = f"the feature 'label' is {label}, no ClassLabel", _label_remedy(kinds, label)
  elif not label.num_classes:
    problem = "the feature 'label' does not say how many classes there are"
    remedy = "prepare the set again with features.ClassLabel(names=[...])"
  if problem:
    raise ValueError(f"{name}: {problem}; {remedy}")


def _label_remedy(kinds, label) -> str:
  """What to do where the labels of a data set are not the numbers of classes."""
  again = "prepare the set again with 'label' as features.ClassLabel"
  if isinstance(label, kinds.Text):
    return f"{again}(names=[...]), the texts that occur, each once"
  if isinstance(label, kinds.Sequence) or getattr(label, "shape", ()) not in ((), None):
    return f"one class an image is expected: {again}, of the class that is to be told"
  return f"{again}(num_classes=...), or (names=[...]) where the classes are called something"


def _batches(tf, dataset, folder, num_examples, num_classes, failures) -> Iterator[Samples]:
  """Yields the batches of `dataset`, checked; errors of TensorFlow become a DataFileError."""
  start = 0
  try:
    for images, labels in dataset.as_numpy_iterator():
      problem = label_problem(labels, num_classes, start)
      if problem:
        raise DataFileError(folder, problem, "Choose a split that has labels.")
      yield images, labels.astype(np.int32)
      start += len(labels)
  except tf.errors.OpError as error:
    if failures:  # our own, of which TensorFlow hands on the text only
      remedy = "Prepare the set again with uint8 images."
      raise DataFileError(folder, str(failures[0]), remedy) from error
    raise DataFileError(folder, f"is damaged: {error.message}", _PREPARE_AGAIN) from error
  if start != num_examples:
    reason = f"holds {start} samples, but its dataset_info.json says {num_examples}"
    raise DataFileError(folder, reason, _PREPARE_AGAIN)


def _prepare(tf, image_size, feature, failures, image):
  """Brings an image to 8 bits, which is exact or fails, and then to its size."""
  if np.dtype(feature.np_dtype) == np.uint8:
    return _resize(tf, image_size, image)

  def convert(values):
    try:
      return scales.exact_uint8(values)
    except ValueError as error:
      failures.append(error)
      raise

  levels = tf.numpy_function(convert, [image], tf.uint8)
  return _resize(tf, image_size, tf.ensure_shape(levels, feature.shape))


def _resize(tf, image_size, image):
  """Resizes the shorter side to `image_size` and crops the centre; None leaves the image as is."""
  if image_size is None:
    return image
  size = tf.cast(tf.shape(image)[:2], tf.float32)
  # At least image_size: rounding must not lose the last row of the shorter side.
  new_size = tf.cast(tf.round(size * image_size / tf.reduce_min(size)), tf.int32)
  new_size = tf.maximum(new_size, image_size)
  image = tf.image.resize(image, new_size, method="bilinear", antialias=True)
  top, left = (new_size[0] - image_size) // 2, (new_size[1] - image_size) // 2
  image = image[top : top + image_size, left : left + image_size]
  return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)


def _builder(tfds, name, data_dir, download):
  """Returns the prepared builder of a name."""
  if name not in NAMES:
    raise ValueError(
      f"name={name!r} is no dataset with a name{near_miss(name, NAMES)} Other datasets are given "
      "by the folder of a prepared TFDS builder, such as '/data/imagenet2012/5.1.0'"
    )
  if data_dir is not None and "://" not in data_dir:
    data_dir = str(pathlib.Path(data_dir).expanduser())
  builder = tfds.builder(name, data_dir=data_dir)
  if download:
    builder.download_and_prepare()
  if not builder.is_prepared():
    raise DataFileError(
      builder.data_dir,
      f"{name} is not prepared there (data_dir={data_dir!r})",
      "Set data_dir to the folder that holds the prepared dataset, or prepare it on a machine with "
      f"a network: python -c \"import tensorflow_datasets as tfds; tfds.load('{name}', "
      f"data_dir='{data_dir or '~/tensorflow_datasets'}')\"",
    )
  return builder


def _checked_folder(name: str) -> str:
  """The folder of a prepared builder, looked at before TensorFlow is loaded.

  Raises:
    DataFileError: it is not there, or has not been prepared, with the near miss.
  """
  if "://" not in name:
    folder = pathlib.Path(name).expanduser()
    if not folder.is_dir():
      raise DataFileError(name, "there is no such folder", "Check the path.")
    if not (folder / "dataset_info.json").is_file():
      remedy = "Expected the version folder of a prepared dataset, like '/data/imagenet2012/5.1.0'."
      for pattern in ("*/*/dataset_info.json", "*/dataset_info.json"):
        for found in sorted(folder.glob(pattern), reverse=True):
          remedy = f"Did you mean {found.parent}?"
      raise DataFileError(name, "holds no dataset_info.json", remedy)
    name = str(folder)
  return name


def _builder_of_folder(tfds, name):
  """Returns the builder whose files lie in the folder `name`."""
  try:
    return tfds.builder_from_directory(name)
  except Exception as error:  # TFDS raises what its parsers raise: JSON, protobuf, KeyError
    raise DataFileError(name, f"cannot be read by TFDS: {error}", _PREPARE_AGAIN) from error


def _num_examples(builder, split) -> int:
  """Returns the size of `split`, or names its near miss."""
  try:
    return builder.info.splits[split].num_examples
  except (KeyError, ValueError) as error:
    hint = near_miss(split, builder.info.splits)
    raise ValueError(f"split={split!r} is no split of {builder.info.name}{hint}") from error


def _import():
  """TensorFlow and TFDS."""
  tf = import_tensorflow()
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ImportError(
      f"TFDS data need tensorflow-datasets ({error}): pip install 'jax_robust[train]', or "
      "train from shards, npz files or arrays"
    ) from error
  return tf, tfds
