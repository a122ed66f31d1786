"""Other labels: a file's, a net's, wrong ones; and trainings on them."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zipfile

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


def header_bytes(text):
  """A .npy with any text as its head."""
  return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def stored_bytes(*members):
  """An npz of members that may not be what they say, or stand there twice."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name, content in members:
      archive.writestr(f"{name}.npy", content)
  return stream.getvalue()


def crowded_bytes(num, zip64=False):
  """An npz that lists one member so many times."""
  content = npz_bytes(label=TRUE)
  start, end = content.find(b"PK\x01\x02"), content.rfind(b"PK\x05\x06")
  entries = content[start:end] * num
  told = (min(num, 65535),) * 2 + (0xFFFFFFFF if zip64 else len(entries), start)
  last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *told, 0)
  if zip64:
    place = start + len(entries)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, num, num, len(entries), start)
    last = record + struct.pack("<4sLQL", b"PK\6\7", 0, place, 1) + last
  return content[:start] + entries + last


BAD_FILES = {
  "nested": (header_bytes("-" * 9000 + "1"), "is not a .npy array"),
  "twice": (stored_bytes(("label", b"1"), ("label", b"2")), "holds 'label.npy' twice"),
  "one class": ({"probabilities": np.ones((6, 1))}, r"float64\[6, 1\], expected floats"),
  "long names": (
    npz_bytes(label=TRUE, class_names=np.array(["a", "b" * 1001])),
    "names of 1000 characters",
  ),
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


BOMBS = {
  "zeros": (lambda: npz_bytes(label=np.zeros(10**8, np.uint8)), "would unpack to 100,000,128"),
  "names": (
    lambda: npz_bytes(label=TRUE, class_names=np.zeros(15 << 20, "U1")), "at most 100000 names"),
  "a long name": (
    lambda: npz_bytes(label=TRUE, class_names=np.zeros(1, "U9999999")), "of 1000 characters"),
  "many members": (lambda: crowded_bytes(10**6), "000 bytes of names of members"),
  "many members of zip64": (lambda: crowded_bytes(10**6, zip64=True), "of names of members"),
  "1e9 labels": (lambda: npy_bytes(f"({10**9},)"), "expected 6, one for each image"),
  "1e9 classes": (
    lambda: stored_bytes(
      ("probabilities", npy_bytes(f"(6, {10**9})").replace(b"<i8", b"<f8"))
    ),
    "its header announces 48000000128"),
  "head": (lambda: header_bytes("-" * 60_000 + "1"), "is not a .npy array"),
  "a long head": (lambda: header_bytes("{'shape': (" + "9" * 60_000), "is not a .npy array"),
  "nested dtype": (
    lambda: header_bytes("{'descr': " + "[('a'," * 150 + "'<i8'" + ")]" * 150 + "}"),
    "is not a .npy"),
  "label of 1e9": (lambda: npz_bytes(label=np.array([10**9] * 6)), "are outside 0 to 2"),
}  # fmt: skip

MEASURE = """
import pathlib, resource, sys, time
import numpy as np
from jax_robust.data import labels
from jax_robust.data.sources import array_source
source = array_source(np.zeros((6, 1, 1, 1), np.uint8), [0, 1, 2, 0, 1, 2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
  began, said = time.process_time(), "accepted"
  try:
    given, names = labels.load_labels(path, num_images=6)
    labels.with_labels(source, given, probabilities=labels.load_probabilities(path))
  except ValueError as error:
    said = str(error).replace(chr(10), " ")[-2000:]
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(path.name, time.process_time() - began, (after - before) / 1024, said, sep=chr(9))
"""


def test_bombs_of_labels_are_refused_in_a_second_and_200_megabytes(tmp_path):
  """All in one process, whose memory never shrinks: what one needs, all need at most."""
  for name, (make, _) in BOMBS.items():
    (tmp_path / name).write_bytes(make())
  argv = [sys.executable, "-c", MEASURE, str(tmp_path)]
  done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
  found = [line.split("\t") for line in done.stdout.splitlines()]
  assert {name for name, *_ in found} == BOMBS.keys(), done.stderr
  for name, seconds, megabytes, said in found:
    assert BOMBS[name][1] in said, f"{name}: {said}"
    assert float(seconds) < 1 and float(megabytes) < 200, f"{name}: {seconds} s, {megabytes} MB"


def test_a_pipe_of_labels_is_never_opened(tmp_path):
  os.mkfifo(tmp_path / "labels.npy")
  with pytest.raises(errors.DataFileError, match="is a pipe"):
    labels.load_labels(tmp_path / "labels.npy")
