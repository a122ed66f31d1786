"""Files that are none, are no images, or would fill the memory: named, and refused at once."""

import gzip
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
from image_sets import class_folders, picture, save
from rows import mostly_slow

from jax_robust.data import convert, decoding, files, idx
from jax_robust.errors import DataFileError


def test_a_damaged_file_is_named_with_its_path_when_it_is_read(tmp_path, monkeypatch):
  root = class_folders(tmp_path / "set", {"a": 2, "b": 2})
  bad = root / "b" / "001.png"
  monkeypatch.chdir(tmp_path)
  source = convert.open_source("set")  # a relative path
  bad.write_bytes(bad.read_bytes()[:45])
  with pytest.raises(DataFileError, match="cannot be decoded") as caught:
    source.read(np.arange(4))
  assert caught.value.path == str(bad)
  bad.unlink()
  with pytest.raises(DataFileError) as caught:
    source.read(np.array([3]))
  assert caught.value.path == str(bad)


@pytest.mark.thorough
def test_a_damaged_file_is_named_by_the_pipeline(tmp_path):
  pytest.importorskip("tensorflow")
  from jax_robust.data import train_batches

  root = class_folders(tmp_path / "set", {"a": 3, "b": 3})
  source = convert.open_source(root)
  (root / "b" / "002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  with pytest.raises(DataFileError) as caught:
    next(train_batches(source, None, batch_size=6, original_share=1.0, emulated_workers=0))
  assert caught.value.path == str(root / "b" / "002.png")


def test_all_headers_are_looked_at_first_and_progress_is_said(tmp_path, monkeypatch, caplog):
  root = class_folders(tmp_path / "set", {"a": 300, "b": 300})
  monkeypatch.setattr(decoding, "_SECONDS_BETWEEN_REPORTS", 0.0)
  with caplog.at_level(logging.INFO, "jax_robust"):
    convert.open_source(root)
  assert "the headers of 256 of 600 images are right" in caplog.text
  save(root / "b" / "298.png", picture(3, size=5))
  with pytest.raises(
    DataFileError, match=r"image 598 has shape \[5, 5, 3\], the first one \("
  ) as e:
    convert.open_source(root)
  assert e.value.path == str(root / "b" / "298.png")
  (root / "b" / "298.png").write_bytes(b"")
  with pytest.raises(DataFileError, match="cannot be decoded"):
    convert.open_source(root)


def test_files_that_are_no_images(tmp_path, caplog):
  """What systems leave behind is left out, and said; all else is refused, listed once."""
  root = class_folders(tmp_path / "set", {"a": 1, "b": 1})
  for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
    (root / "a" / name).write_bytes(b"?")
    (root / name).write_bytes(b"?")
  (root / "__MACOSX").mkdir()
  with caplog.at_level(logging.INFO, "jax_robust"):
    assert convert.open_source(root).num_examples == 2
  assert caplog.text.count("left out 2 files") == 1 and "Thumbs.db, desktop.ini" in caplog.text
  for name in ("x.webp", "y.txt", "z.gif"):
    (root / "b" / name).write_bytes(b"?")
  with pytest.raises(DataFileError, match=r"x\.webp: is not one of \.png.*nor are 2 others") as e:
    convert.open_source(root)
  assert str(root / "b" / "y.txt") in str(e.value)
  caplog.clear()
  with caplog.at_level(logging.INFO, "jax_robust"):
    names, source = files.unlabelled_folder(root)
  assert names == ["a/000.png", "b/000.png"] and source.num_examples == 2
  assert caplog.text.count("left out 3 files") == 1 and "x.webp, y.txt, z.gif" in caplog.text


def test_images_beside_the_classes_are_refused(tmp_path):
  root = class_folders(tmp_path / "set", {"a": 1, "b": 1})
  (root / "README.txt").write_text("?")
  assert convert.open_source(root).num_examples == 2
  save(root / "stray.png", picture(1))
  with pytest.raises(DataFileError, match=r"stray\.png: lies beside the folders of the classes"):
    convert.open_source(root)
  (root / "stray.png").unlink()
  class_folders(root / "a", {"inner": 1})
  with pytest.raises(DataFileError, match=r"a.inner: is not one of"):
    convert.open_source(root)


# Names that are not UTF-8.


def test_names_that_are_not_utf8_work(tmp_path):
  root = os.fsencode(tmp_path / "set")
  try:
    for label, name in enumerate((b"caf\xe9", b"tea")):
      os.makedirs(os.path.join(root, name))
      with open(os.path.join(root, name, b"\xff.png"), "wb") as file:
        file.write(save(tmp_path / "x.png", picture(label)).read_bytes())
  except OSError:
    pytest.skip("this file system has only names in UTF-8")
  source = convert.open_source(os.fsdecode(root))
  assert source.class_names == (r"caf\xe9", "tea")
  images, labels = source.read(np.arange(2))
  assert labels.tolist() == [0, 1] and images[:, 0, 0, 0].tolist() == [0, 1]
  names, _ = files.unlabelled_folder(os.fsdecode(root))
  for text in (*names, *source.class_names):
    json.dumps(text).encode("utf-8"), text.encode("utf-8")
  made = convert.make_shards(os.fsdecode(root), tmp_path / "shards")
  assert made.class_names == source.class_names
  with open(os.path.join(root, b"tea", b"\xfe.png"), "wb") as file:
    file.write(b"?")
  with pytest.raises(DataFileError, match="cannot be decoded") as caught:
    convert.open_source(os.fsdecode(root))
  assert os.fsencode(caught.value.path).endswith(b"tea/\xfe.png")
  with open(os.path.join(root, b"tea", b"\xfe.txt"), "wb") as file:
    file.write(b"?")
  str(caught.value).encode("utf-8", "backslashreplace")


# Pipes, sockets, devices; bombs.


def _pipe(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  os.mkfifo(path)


def _socket(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  old = os.getcwd()
  os.chdir(path.parent)  # the path of a socket must be short
  try:
    socket.socket(socket.AF_UNIX).bind(path.name)
  finally:
    os.chdir(old)


def _device(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_pipe, _socket, _device])
def test_what_is_no_file_is_never_opened(tmp_path, make):
  make(tmp_path / "set.npz")
  make(tmp_path / "shards" / "manifest.json")
  make(tmp_path / "train-images-idx3-ubyte")
  class_folders(tmp_path / "folders", {"a": 1})
  make(tmp_path / "folders" / "a" / "x.png")
  for name in ("set.npz", "shards", "folders"):
    with pytest.raises(DataFileError, match="pipe"):
      convert.open_source(tmp_path / name)
  with pytest.raises(DataFileError, match="pipe"):
    idx.idx_source(tmp_path / "train-images-idx3-ubyte", tmp_path / "train-images-idx3-ubyte")
  with pytest.raises(DataFileError, match="pipe"):
    decoding.header(str(tmp_path / "folders" / "a" / "x.png"), "x")
  names, _ = files.unlabelled_folder(tmp_path / "folders")
  assert names == ["a/000.png"]


def test_a_broken_link_is_named(tmp_path):
  class_folders(tmp_path / "set", {"a": 1})
  (tmp_path / "set" / "a" / "x.png").symlink_to(tmp_path / "nowhere.png")
  with pytest.raises(DataFileError, match=r"x\.png: is no file .*broken link"):
    convert.open_source(tmp_path / "set")


def _npz_of_zeros(path, num):
  """Hundreds of megabytes of black images, in a file of less than one."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
    with archive.open("image.npy", "w", force_zip64=True) as stream:
      header = {"descr": "|u1", "fortran_order": False, "shape": (num, 32, 32, 3)}
      np.lib.format.write_array_header_1_0(stream, header)
      for _ in range(num // 1000):
        stream.write(bytes(1000 * 3072))
    with archive.open("label.npy", "w") as stream:
      np.save(stream, np.zeros(num, np.uint8))


def _npz_with_header(path, **shapes):
  """An npz whose arrays announce shapes that they do not have."""
  with zipfile.ZipFile(path, "w") as archive:
    for name, (kind, shape) in shapes.items():
      with archive.open(f"{name}.npy", "w") as stream:
        header = {"descr": kind, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(bytes(8))


def _huge_png(path, side):
  """A PNG whose header announces side × side pixels."""
  path.parent.mkdir(parents=True, exist_ok=True)
  chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
  data = b"IDAT" + zlib.compress(bytes(10))
  text = b"\x89PNG\r\n\x1a\n"
  for each in (chunk, data, b"IEND"):
    text += struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each))
  path.write_bytes(text)


def _idx_bomb(folder):
  head = bytes([0, 0, 8, 3]) + struct.pack(">III", 100_000, 32, 32)
  with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
    file.write(head)
    for _ in range(100):
      file.write(bytes(1000 * 1024))
  with gzip.open(folder / "train-labels-idx1-ubyte.gz", "wb") as file:
    file.write(bytes([0, 0, 8, 1]) + struct.pack(">I", 100_000) + bytes(100_000))


ZEROS = np.zeros((2, 4, 4, 3), np.uint8)
LONG = 2**40

BOMBS = {
  "labels": (
    lambda p: np.savez(p / "x.npz", image=ZEROS, label=np.array([0, 10**9])), "x.npz", "classes",
  ),
  "folder": (
    lambda p: class_folders(p / "x", {"000": 1, "200000000": 1}), "x", "look like seeds",
  ),
  "zip": (lambda p: _npz_of_zeros(p / "x.npz", 100_000), "x.npz", "would unpack to 307,200,"),
  "shape": (
    lambda p: _npz_with_header(
      p / "x.npz", image=("|u1", (10**10, 32, 32, 3)), label=("<i8", (1,))
    ),
    "x.npz", "header announces",
  ),
  "overflow": (
    lambda p: _npz_with_header(
      p / "x.npz", image=("|u1", (8, LONG, LONG, 1 << 24)), label=("<i8", (1,))
    ),
    "x.npz", "header announces",
  ),
  "pixels": (lambda p: _huge_png(p / "x" / "a" / "0.png", 60_000), "x", "is too large"),
  "fewer pixels": (lambda p: _huge_png(p / "x" / "a" / "0.png", 9_000), "x", "is too large"),
  "idx": (_idx_bomb, "", "would unpack to 102,400,000"),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(BOMBS, "label", "idx", thorough=["shape", "pixels"]))
def test_bombs_are_refused_in_a_second_and_200_megabytes(tmp_path, name):
  """In a process of its own, whose memory is limited; TensorFlow and JAX are not needed."""
  make, path, message = BOMBS[name]
  make(tmp_path)
  program = f"""
import resource, sys, time
from jax_robust.data import convert
from jax_robust.errors import DataFileError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
try:
  {"convert.open_split(sys.argv[1], 'train')" if not path else "convert.open_source(sys.argv[1])"}
except DataFileError as error:
  print(error)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(time.perf_counter() - began, (after - before) / 1024)
"""
  argv = [sys.executable, "-c", program, str(tmp_path / path)]
  done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
  assert message in done.stdout, done.stdout + done.stderr
  seconds, megabytes = map(float, done.stdout.split("\n")[-2].split())
  assert seconds < 1 and megabytes < 200


def test_a_folder_called_200000000_is_a_class_like_any_other(tmp_path):
  began = time.monotonic()
  source = convert.open_source(class_folders(tmp_path, {"7": 1, "200000000": 1}))
  assert source.num_classes == 2 and source.class_names == ("7", "200000000")
  with pytest.raises(DataFileError, match=r"is 200000000, outside \[0, 10\)"):
    files.png_folder_source(tmp_path, num_classes=10)
  assert time.monotonic() - began < 1
