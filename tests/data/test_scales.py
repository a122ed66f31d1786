"""What pixels and labels say they are: brought to 8 bits exactly, or refused with a remedy."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_sets import picture, save
from PIL import Image, ImageOps

from jax_robust.data import convert, files, scales, sources, tfds
from jax_robust.errors import DataFileError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 6, 5, 3)).astype(np.uint8)
BYTES[0].flat[:2] = 0, 255
LABELS = np.arange(20) % 4
ALL = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)

KEEPS_FLOATS = r"numpy\.round\(255 \* images\)\.astype\(numpy\.uint8\)"


# Exactly, or not at all.


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nothing_is_rounded(dtype):
  """Each level of 8 bits comes back, however it was divided, and a value between two does not."""
  by_division = ALL.astype(dtype) / dtype(255)
  by_product = ALL.astype(dtype) * dtype(1 / 255)
  for images in (by_division, by_product) if dtype != np.float16 else (by_division,):
    np.testing.assert_array_equal(scales.exact_uint8(images), ALL)
  between = by_division.copy()
  between.flat[100] += dtype(0.002)
  with pytest.raises(ValueError, match=f"dtype is {np.dtype(dtype)}.*{KEEPS_FLOATS}.*1/510"):
    scales.exact_uint8(between)


def test_16_bits_are_levels_times_257():
  np.testing.assert_array_equal(scales.exact_uint8(ALL.astype(np.uint16) * 257), ALL)
  with pytest.raises(ValueError, match=r"uint16, with values from 0 to 255 .*images / 257"):
    scales.exact_uint8(ALL.astype(np.uint16))
  # The remedy keeps the picture.
  deep = np.linspace(0, 65535, 300).astype(np.uint16)
  assert np.abs(np.round(deep / 257) / 255 - deep / 65535).max() <= 0.5 / 255 + 1e-9


UNIT = (BYTES / 255).astype(np.float32)

ARRAYS = [
  (UNIT * 2 - 1, r"from -1 to 1 .*undo the normalisation"),
  (UNIT * 255, r"dtype is float32, with values from 0 to 255 .*numpy\.round\(images\)\.astype"),
  (UNIT * 0.999, rf"{KEEPS_FLOATS} keeps them to within 1/510"),
  (np.where(np.arange(5)[:, None] == 2, np.nan, UNIT), "NaN or infinite"),
  (BYTES.astype(np.uint16) * 16, r"uint16.*images / 257.*255 / the largest value"),
  (
    BYTES.astype(np.int64),
    r"dtype is int64, expected uint8: numpy\.asarray\(images, numpy\.uint8\)",
  ),
  (BYTES > 100, r"dtype is bool, expected uint8"),
  (BYTES.transpose(0, 3, 1, 2), r"channels come first.*images\.transpose\(0, 2, 3, 1\)"),
  (UNIT.transpose(0, 3, 1, 2), r"channels come first.*images\.transpose\(0, 2, 3, 1\)"),
  (BYTES[:, None, :, :, 0], r"channels come first"),
  (BYTES[..., [0, 1, 2, 0]], r"alpha, which would be lost.*alpha_composite"),
  (BYTES[..., 0], r"images\[\.\.\., None\]"),
]


@pytest.mark.parametrize(("images", "message"), ARRAYS)
@pytest.mark.parametrize("open_fn", [files.npz_source, files.npz_stream, convert.open_source])
def test_arrays_of_another_scale_or_layout_are_refused(tmp_path, images, message, open_fn):
  np.savez(tmp_path / "set.npz", image=np.ascontiguousarray(images), label=LABELS)
  with pytest.raises(DataFileError, match=message) as caught:
    opened = open_fn(tmp_path / "set.npz")
    list(opened.batches())
  assert str(tmp_path / "set.npz") in str(caught.value)


@pytest.mark.parametrize("images", [UNIT, BYTES / 255, BYTES.astype(np.uint16) * 257])
@pytest.mark.parametrize("save_fn", [np.savez, np.savez_compressed])
def test_exact_arrays_are_read(tmp_path, images, save_fn):
  save_fn(tmp_path / "set.npz", image=images, label=LABELS)
  read, labels = files.npz_source(tmp_path / "set.npz").read(np.arange(20))
  streamed = np.concatenate([x for x, _ in files.npz_stream(tmp_path / "set.npz").batches(7)])
  for found in (read, streamed):
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, BYTES)
  assert labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (LABELS.astype(float), "dtype is float64, expected integers"),
    (np.where(LABELS == 3, np.nan, LABELS), "dtype is float64"),
    (np.eye(4)[LABELS], r"numpy\.argmax\(labels, 1\) where they are one-hot"),
    (np.eye(4, dtype=int)[LABELS], r"shape is \[20, 4\], expected \[n\]"),
    (LABELS[:, None], r"shape is \[20, 1\], expected \[n\]"),
    (LABELS - 1, "label of sample 0 is -1"),
    (LABELS - 5, "label of sample 0 is -5"),
    (LABELS > 1, "dtype is bool"),
    (LABELS.astype(str), "dtype is <U"),
    (LABELS * 10**9, r"makes 3000000001 classes.*numpy\.unique\(labels, return_inverse=True\)"),
    (LABELS.astype(np.uint64) + 2**63, "more than the 100000 of any set"),
  ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, message):
  np.savez(tmp_path / "set.npz", image=BYTES, label=labels)
  with pytest.raises(DataFileError, match=message):
    files.npz_source(tmp_path / "set.npz")
  with pytest.raises(ValueError, match=message):
    sources.array_source(BYTES, labels)


# Images in files.


def _deep_rgb(image):
  """A PNG of 16 bits a channel, which PIL can't write."""
  rows = np.repeat(image.reshape(len(image), -1)[..., None], 2, -1).reshape(len(image), -1)
  data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
  height, width = image.shape[:2]
  chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", data)]
  text = b"\x89PNG\r\n\x1a\n"
  for kind, content in [*chunks, (b"IEND", b"")]:
    text += struct.pack(">I", len(content)) + kind + content
    text += struct.pack(">I", zlib.crc32(kind + content))
  return text


RED = Image.fromarray(picture(7))


def _with_transparency(mode, **options):
  buffer = io.BytesIO()
  RED.convert(mode).save(buffer, "PNG", **options)
  return buffer.getvalue()


def _jpeg(mode):
  buffer = io.BytesIO()
  RED.convert(mode).save(buffer, "JPEG")
  return buffer.getvalue()


def _animation():
  buffer = io.BytesIO()
  RED.save(buffer, "PNG", save_all=True, append_images=[Image.fromarray(picture(8))])
  return buffer.getvalue()


FILES = {
  "I;16": (Image.fromarray(np.full((4, 4), 4000, np.uint16)), r"I;16.*round\(values / 257\)"),
  "RGB of 16 bits": (_deep_rgb(picture(7)), r"mode RGB with more than 8 bits a channel"),
  "RGBA": (RED.convert("RGBA"), r"mode RGBA.*alpha, which would be lost.*alpha_composite"),
  "LA": (RED.convert("LA"), r"mode LA.*alpha"),
  "P with alpha": (_with_transparency("P", transparency=0), "mode P with transparent.*alpha"),
  "RGB with alpha": (
    _with_transparency("RGB", transparency=(7, 7, 7)),
    "mode RGB with transparent",
  ),
  "L with alpha": (_with_transparency("L", transparency=7), "mode L with transparent"),
  "APNG": (_animation(), "is an animation of 2 pictures. Save the picture that is meant"),
  "CMYK": (_jpeg("CMYK"), r"mode CMYK.*amounts of ink: PIL\.Image.*convert\('RGB'\)"),
}


@pytest.mark.parametrize("name", FILES)
def test_image_files_that_would_lose_something_are_refused(tmp_path, name):
  """At once, by the header, and named with the full path, wherever in the set they are."""
  content, message = FILES[name]
  save(tmp_path / "set" / "a" / "0.png", picture(1))
  bad = tmp_path / "set" / "b" / "1.png"
  bad.parent.mkdir()
  bad.write_bytes(content) if isinstance(content, bytes) else save(bad, content)
  for open_fn in (convert.open_source, files.unlabelled_folder):
    with pytest.raises(DataFileError, match=message) as caught:
      open_fn(tmp_path / "set")
    assert caught.value.path == str(bad)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(10))
def test_photos_are_turned_as_they_are_shown(tmp_path, suffix, orientation):
  """Unless the number is none: EXIF has 1 to 8."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  file = tmp_path / "set" / "a" / f"0.{suffix}"
  file.parent.mkdir(parents=True)
  pixels = RNG.integers(0, 256, (8, 16, 3)).astype(np.uint8)
  Image.fromarray(pixels).save(file, exif=exif)
  source = convert.open_source(tmp_path / "set")
  with Image.open(file) as image:
    expected = np.asarray(ImageOps.exif_transpose(image))
  assert source.image_shape == expected.shape
  np.testing.assert_array_equal(source.read(np.arange(1))[0][0], expected)


def test_palettes_and_single_bits_are_converted_without_loss(tmp_path):
  colours = RNG.integers(0, 256, (3, 4, 3)).astype(np.uint8)  # twelve: fit a palette
  image = Image.fromarray(colours).quantize(256)
  save(tmp_path / "rgb" / "a" / "0.png", image)
  read = convert.open_source(tmp_path / "rgb").read(np.arange(1))[0][0]
  np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))
  bits = RNG.integers(0, 2, (4, 6)).astype(bool)
  save(tmp_path / "grey" / "a" / "0.png", Image.fromarray(bits))
  read = convert.open_source(tmp_path / "grey").read(np.arange(1))[0][0]
  np.testing.assert_array_equal(read[..., 0], bits * 255)


# TFDS: what a feature is declared as counts, before anything is cast.


@pytest.fixture(scope="module")
def tensorflow_datasets():
  return pytest.importorskip("tensorflow_datasets")


def _features(kinds, image, label=None):
  return kinds.FeaturesDict({"image": image, "label": label or kinds.ClassLabel(num_classes=4)})


def _rows_of_features(kinds):
  image, label = kinds.Image(shape=(8, 8, 3)), kinds.ClassLabel(num_classes=4)
  names = ["cat", "dog"]
  return [
    (kinds.Tensor(shape=(3, 32, 32), dtype=np.uint8), label, r"channels come first.*\(1, 2, 0\)"),
    (kinds.Tensor(shape=(3, 32, 32), dtype=np.float32), label, r"image\.transpose\(1, 2, 0\)"),
    (kinds.Tensor(shape=(28, 28), dtype=np.uint8), label, r"image\[\.\.\., None\]"),
    (kinds.Tensor(shape=(8, 8, 3), dtype=np.int64), label, r"dtype int64, expected uint8"),
    (kinds.Tensor(shape=(8, 8, 3), dtype=np.bool_), label, r"dtype bool, expected uint8"),
    (kinds.Image(shape=(8, 8, 4)), label, r"alpha, which would be lost"),
    (kinds.Image(shape=(None, None, 4)), label, r"alpha, which would be lost"),
    (kinds.Video(shape=(None, 8, 8, 3)), label, r"the feature 'image' is Video"),
    (kinds.Text(), label, r"the feature 'image' is Text"),
    (image, kinds.Text(), r"no ClassLabel; prepare .*ClassLabel\(names=\[\.\.\.\]\)"),
    (image, kinds.Scalar(np.int64), r"no ClassLabel; prepare .*ClassLabel\(num_classes"),
    (image, kinds.Tensor(shape=(), dtype=np.float32), r"no ClassLabel"),
    (image, kinds.Tensor(shape=(4,), dtype=np.int64), r"one class an image is expected"),
    (image, kinds.Sequence(kinds.ClassLabel(names=names)), r"one class an image is expected"),
    (image, kinds.ClassLabel(), r"does not say how many classes"),
  ]


def test_features_that_are_no_images_with_a_class_are_refused(tensorflow_datasets):
  for image, label, message in _rows_of_features(tensorflow_datasets.features):
    features = _features(tensorflow_datasets.features, image, label)
    with pytest.raises(ValueError, match=message):
      tfds.check_features(tensorflow_datasets, features, "my_set")


@pytest.fixture(scope="module")
def prepared(tensorflow_datasets, tmp_path_factory):
  """`prepared(name, image feature, images) -> folder`."""
  data_dir = tmp_path_factory.mktemp("scales")

  def prepare(name, image, images):
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
      name=name,
      version="1.0.0",
      features=_features(tensorflow_datasets.features, image),
      split_datasets={
        "train": [(i, {"image": x, "label": i % 4}) for i, x in enumerate(images)],
      },
      data_dir=data_dir,
      disable_shuffling=True,
    )
    return str(data_dir / name / "1.0.0")

  return prepare


def test_float_and_16_bit_features_are_read_exactly(tensorflow_datasets, prepared):
  kinds = tensorflow_datasets.features
  for name, image, images in (
    ("floats", kinds.Tensor(shape=(6, 5, 3), dtype=np.float32), UNIT),
    ("deep", kinds.Image(shape=(6, 5, 3), dtype=np.uint16), BYTES.astype(np.uint16) * 257),
  ):
    folder = prepared(name, image, images)
    source = tfds.load_tfds(folder, "train")
    read, labels = source.read(np.arange(20))
    np.testing.assert_array_equal(read, BYTES)
    assert labels.tolist() == LABELS.tolist()
    assert source.class_names == ("0", "1", "2", "3")
    resized = tfds.load_tfds(folder, "train", image_size=4).read(np.arange(20))[0]
    # Resized as the same images in 8 bits would be: far from black.
    assert resized.shape == (20, 4, 4, 3) and abs(resized.mean() - BYTES.mean()) < 10


def test_float_and_16_bit_features_that_would_be_rounded_are_refused(tensorflow_datasets, prepared):
  kinds = tensorflow_datasets.features
  for name, image, images, message in (
    ("signed", kinds.Tensor(shape=(6, 5, 3), dtype=np.float32), UNIT * 2 - 1, "normalisation"),
    (
      "large",
      kinds.Tensor(shape=(6, 5, 3), dtype=np.float32),
      UNIT * 255,
      r"keeps images in \[0, 255",
    ),
    ("dim", kinds.Image(shape=(6, 5, 3), dtype=np.uint16), BYTES.astype(np.uint16), "images / 257"),
  ):
    folder = prepared(name, image, images)
    for image_size in (None, 4):
      with pytest.raises(DataFileError, match=message):
        tfds.load_tfds(folder, "train", image_size=image_size)
