"""Other labels: a file's, a net's, wrong ones; and trainings on them."""

import io
import os

import numpy as np
import pytest

from jax_robust import errors
from jax_robust.data import labels
from jax_robust.data.labels import LEFT_OUT
from jax_robust.data.sources import array_source, labels_of

IMAGES = np.arange(6, dtype=np.uint8).repeat(4).reshape(6, 2, 2, 1)
TRUE = np.array([0, 1, 2, 0, 1, 2])
SOURCE = array_source(IMAGES, TRUE, class_names=("cat", "dog", "ship"), name="pets")


def first_pixels(source):
  images, given = source.read(np.arange(source.num_examples))
  assert given.tolist() == labels_of(source).tolist() and given.dtype == np.int32
  return images[:, 0, 0, 0].tolist(), given.tolist()


def test_labels_are_replaced_and_images_left_out():
  source = labels.with_labels(SOURCE, [2, LEFT_OUT, 1, 0, LEFT_OUT, 0])
  assert first_pixels(source) == ([0, 2, 3, 5], [2, 1, 0, 0])
  assert source.class_names == SOURCE.class_names and source.rows.tolist() == [0, 2, 3, 5]
  other = labels.with_labels(SOURCE, [3] * 6, class_names=("0", "1", "2", "3"))
  assert (other.num_classes, other.class_names[3]) == (4, "3")


def wrong_net(images):
  """Says of image i that it is of class (i + 1) mod 3, but for image 5, of which it is right."""
  number = np.round(images[:, 0, 0, 0] * 255).astype(int)
  return np.eye(3)[np.where(number == 5, 2, (number + 1) % 3)]


@pytest.mark.parametrize(
  ("keep", "expected"),
  [
    ("all", ([0, 1, 2, 3, 4, 5], [1, 2, 0, 1, 2, 2])),
    ("mistakes", ([0, 1, 2, 3, 4], [1, 2, 0, 1, 2])),
    ("correct", ([5], [2])),
  ],
)
def test_a_net_gives_labels(keep, expected):
  found = labels.relabel(SOURCE, wrong_net, keep=keep, batch_size=4)
  assert first_pixels(found) == expected


def test_no_mistake_is_a_correct_label():
  found = labels.relabel(SOURCE, wrong_net, keep="mistakes")
  images, given = first_pixels(found)
  assert all(TRUE[image] != label for image, label in zip(images, given, strict=True))


def test_classes_that_are_never_given_are_warned_of():
  with pytest.warns(
    errors.RobustnessWarning, match=r"label \['dog', 'ship'\].*2 of 3 classes: at most 33%"
  ):
    labels.relabel(SOURCE, lambda images: np.eye(3)[np.zeros(len(images), int)])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_uniform_noise_is_wrong_and_even(share):
  true = np.arange(9000) % 3
  true[::10] = LEFT_OUT
  noisy = labels.inject_label_noise(true, share, num_classes=3, seed=1)
  assert (noisy[true == LEFT_OUT] == LEFT_OUT).all()
  changed = (noisy != true)[true != LEFT_OUT]
  assert changed.sum() == round(share * changed.size)
  moves = np.bincount((noisy - true)[noisy != true] % 3, minlength=3)
  assert abs(moves[1] - moves[2]) <= 5 * np.sqrt(moves.sum() + 1)
  again = labels.inject_label_noise(true, share, num_classes=3, seed=1)
  other = labels.inject_label_noise(true, share, num_classes=3, seed=2)
  assert (again == noisy).all() and (share == 0 or (other != noisy).any())


def test_permuted_noise_keeps_the_marginals():
  true = np.arange(900) % 3
  noisy = labels.inject_label_noise(true, 0.5, num_classes=3, seed=0, kind="permuted")
  assert np.bincount(noisy).tolist() == [300] * 3
  assert 0.25 < np.mean(noisy != true) < 0.42  # of the half that is permuted a third stays right


def test_files_hold_labels_and_names(tmp_path):
  np.save(tmp_path / "plain.npy", TRUE)
  given, names = labels.load_labels(tmp_path / "plain.npy")
  assert given.tolist() == TRUE.tolist() and names is None
  labels.save_labels(tmp_path / "named.npz", [1, LEFT_OUT], ("zero", "one"))
  given, names = labels.load_labels(tmp_path / "named.npz")
  assert given.tolist() == [1, LEFT_OUT] and names == ("zero", "one")


PROBS = np.array([[0.2, 0.8], [np.nan, np.nan], [0.6, 0.4], [1.0, 0.0]], np.float32)


def test_probabilities_stand_beside_labels(tmp_path):
  np.savez(tmp_path / "soft.npz", probabilities=PROBS)
  given, names = labels.load_labels(tmp_path / "soft.npz")
  assert given.tolist() == [1, LEFT_OUT, 0, 0] and names is None
  labels.save_labels(tmp_path / "both.npz", [0, 1, LEFT_OUT, 1], ("a", "b"), probabilities=PROBS)
  given, names = labels.load_labels(tmp_path / "both.npz")
  assert given.tolist() == [0, LEFT_OUT, LEFT_OUT, 1] and names == ("a", "b")
  probs = labels.load_probabilities(tmp_path / "both.npz")
  four = array_source(IMAGES[:4], TRUE[:4])
  source = labels.with_labels(four, given, probabilities=probs, class_names=names)
  assert first_pixels(source) == ([0, 3], [0, 1])
  np.testing.assert_array_equal(source.columns["probabilities"](np.arange(2)), PROBS[[0, 3]])
  assert labels.with_labels(source, [0, 1]).columns == {}
  np.save(tmp_path / "plain.npy", TRUE)
  assert labels.load_probabilities(tmp_path / "plain.npy") is None


BAD = {
  "half a row": (
    lambda: labels.with_labels(SOURCE, TRUE, probabilities=np.where(np.eye(6, 3), np.nan, 0.5)),
    "are no probabilities"),
  "too few rows": (
    lambda: labels.with_labels(SOURCE, TRUE, probabilities=PROBS),
    "4 rows of probabilities for 6 labels"),
  "too few": (lambda: labels.with_labels(SOURCE, TRUE[:4]), r"int64\[4\], expected integers \[6\]"),
  "floats": (lambda: labels.with_labels(SOURCE, TRUE * 1.0), r"float64\[6\], expected integers"),
  "outside": (lambda: labels.with_labels(SOURCE, TRUE + 1), r"labels \[3\] are outside 0 to 2"),
  "negative": (lambda: labels.with_labels(SOURCE, TRUE - 2), r"labels \[-2\] are outside"),
  "none left": (lambda: labels.with_labels(SOURCE, [-1] * 6), "no image of pets is left"),
  "no mistakes": (
    lambda: labels.relabel(SOURCE, lambda x: np.eye(3)[(x[:, 0, 0, 0] * 255).astype(int) % 3],
                           keep="mistakes"), "makes no mistakes here"),
  "keep": (lambda: labels.relabel(SOURCE, wrong_net, keep="mistake"), "did you mean 'mistakes'"),
  "exits": (lambda: labels.relabel(SOURCE, lambda x: (wrong_net(x),) * 2), r"nets\.select_exit"),
  "nan": (lambda: labels.relabel(SOURCE, lambda x: wrong_net(x) * np.nan), "NaN or infinite"),
  "share": (lambda: labels.inject_label_noise(TRUE, 2, num_classes=3, seed=0), "share=2: expected"),
  "one class": (lambda: labels.inject_label_noise(TRUE, 0.5, num_classes=1, seed=0), "classes=1"),
  "kind": (
    lambda: labels.inject_label_noise(TRUE, 0.5, num_classes=3, seed=0, kind="uniforms"),
    "did you mean 'uniform'",
  ),
  "one text": (lambda: labels.with_labels(SOURCE, TRUE, class_names="abc"), "a list of texts"),
  "a name twice": (lambda: labels.with_labels(SOURCE, TRUE, class_names=("a", "a", "b")), "'a' tw"),
  "a name twice in a set": (
    lambda: array_source(IMAGES, TRUE, class_names=("a", "b", "a")), "'a' twice, expected each"),
  "classes": (lambda: labels.relabel(SOURCE, lambda x: wrong_net(x).astype(int)), "dtype int64"),
  "noisy floats": (
    lambda: labels.inject_label_noise(TRUE + 0.7, 0.5, num_classes=3, seed=0), "float64"),
  "noisy outside": (
    lambda: labels.inject_label_noise(TRUE + 5, 0.5, num_classes=3, seed=0), "outside 0 to 2"),
  "no seed": (lambda: labels.inject_label_noise(TRUE, 0.5, num_classes=3, seed=None), "seed=None"),
  "kept floats": (lambda: labels.select_kept(TRUE * 1.5, TRUE, "all"), "given labels are float64"),
  "kept length": (lambda: labels.select_kept(TRUE, TRUE[:4], "all"), r"expected integers \[4\]"),
  "saved floats": (lambda: labels.save_labels("x.npz", TRUE + 0.7), "labels are float64"),
  "saved bits": (lambda: labels.save_labels("x.npz", [2**40]), "no integers of 32 bits"),
}  # fmt: skip


@pytest.mark.parametrize("call, message", BAD.values(), ids=BAD)
def test_bad_labels_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def npy_bytes(shape):
  """A .npy whose head says so, with a few labels."""
  stream = io.BytesIO()
  np.save(stream, TRUE)
  return stream.getvalue().replace(
    b"(6,), }" + b" " * len(shape), f"{shape}, }}".encode() + b" " * 4
  )


def npz_bytes(**arrays):
  stream = io.BytesIO()
  np.savez_compressed(stream, **arrays)
  return stream.getvalue()


BAD_FILES = {
  "missing": (None, "there is no such file"),
  "damaged": (b"\x93NUMPY\x01\x00", "can't be read as labels"),
  "pickled": (np.array([{}], object), "can't be read as labels"),
  "integers as probabilities": ({"probabilities": np.eye(3, dtype=int)}, "expected floats"),
  "other lengths": (
    {"label": np.arange(2), "probabilities": np.eye(3)},
    "2 labels and 3 rows of probabilities",
  ),
  "other names": ({"labels": TRUE}, "neither 'label' nor 'probabilities'"),
  "one-hot": (np.eye(3), r"float64\[3, 3\], expected integers \[n\]"),
  "cut": (npy_bytes("(12,)"), "its header announces 224"),
  "huge": (npy_bytes("(999999999999,)"), r"announces int64\[999999999999\], expected at most"),
  "bomb": (npz_bytes(label=np.zeros(9 << 20, int)), "would unpack to 75,497,"),
  "names of bytes": (
    npz_bytes(label=TRUE, class_names=np.array([b"a", b"b", b"c"])),
    r"\|S1 \[3\]",
  ),
  "two probabilities": ({"probabilities": np.ones(3)}, r"holds probabilities float64\[3\]"),
  "wide": (npz_bytes(probabilities=np.zeros((1, 100_001))), "announces .*at most 100000 classes"),
  "times": (np.zeros(3, "M8[s]"), r"datetime64\[s\]\[3\], expected integers"),
  "flags": (np.zeros(3, bool), r"bool\[3\], expected integers"),
  "a scalar": (np.array(3), r"has shape \[\]"),
  "empty": (b"", r"is empty"),
  "names of others": (npz_bytes(label=TRUE, class_names=np.array([["a"]])), r"<U1 \[1, 1\]"),
  "names twice": (npz_bytes(label=TRUE, class_names=np.array(["a", "a", "b"])), "'a' twice"),
}


@pytest.mark.parametrize("content, message", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused(tmp_path, content, message):
  path = tmp_path / "labels.npy"
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif isinstance(content, dict):
    with path.open("wb") as stream:
      np.savez(stream, **content)
  elif content is not None:
    np.save(path, content, allow_pickle=True)
  with pytest.raises(errors.DataFileError, match=message):
    labels.load_labels(path)


def test_a_file_of_another_number_of_images_is_refused_by_its_head(tmp_path):
  """Also where it is whole, so that gigabytes of holes would be read."""
  path = tmp_path / "labels.npy"
  with path.open("wb") as stream:
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**9,)}
    np.lib.format.write_array_header_1_0(stream, header)
    stream.truncate(stream.tell() + 8 * 10**9)
  with pytest.raises(errors.DataFileError, match="expected 6, one for each image"):
    labels.load_labels(path, num_images=6)
  with pytest.raises(errors.DataFileError, match="expected at most 100000000"):
    labels.load_labels(path)


def test_a_pipe_of_labels_is_never_opened(tmp_path):
  os.mkfifo(tmp_path / "labels.npy")
  with pytest.raises(errors.DataFileError, match="is a pipe"):
    labels.load_labels(tmp_path / "labels.npy")
