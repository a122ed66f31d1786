"""Folders of images without labels that a generator has numbered by its seeds."""

import numpy as np
import pytest
from PIL import Image

from jax_robust.data import convert, files, listing
from jax_robust.errors import DataFileError

pytestmark = pytest.mark.fast

SEEDS = (7, 999, 1000, 1999, 12_345, 999_999, 1_000_000, 1_234_567)
"""Of six digits and of seven, which sort otherwise as text."""


def pixels(seed):
  """An image that bears its seed."""
  return np.full((4, 4, 3), (seed % 256, seed // 256 % 256, seed // 65_536), np.uint8)


def save(root, seed, folder=None, name=None):
  """Writes an image as EDM's generate.py does with --subdirs."""
  folder = f"{seed - seed % 1000:06d}" if folder is None else folder
  (root / folder).mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels(seed)).save(root / folder / (name or f"{seed:06d}.png"))


@pytest.mark.parametrize("folder", [None, ""])
def test_images_come_in_the_order_of_the_seeds(tmp_path, folder):
  for seed in np.random.default_rng(0).permutation(SEEDS).tolist():
    save(tmp_path, seed, folder)
  (tmp_path / ".hidden").write_text("")
  (tmp_path / "log.txt").write_text("")
  names, source = files.unlabelled_folder(tmp_path)
  images, labels = source.read(np.arange(len(SEEDS)))
  np.testing.assert_array_equal(images, np.stack([pixels(seed) for seed in SEEDS]))
  assert [int(name.split("/")[-1][:-4]) for name in names] == list(SEEDS)
  if folder is None:
    assert names[:2] == ["000000/000007.png", "000000/000999.png"]
    assert names[-1] == "1234000/1234567.png" and not labels.any()


@pytest.mark.parametrize(
  "folder, name",
  [("000000", "0000123.png"), ("000000", "000123.jpg"), ("001000", "000123.png"), ("", None)],
)
def test_a_seed_twice_is_refused(tmp_path, folder, name):
  save(tmp_path, 123)
  save(tmp_path, 124)
  save(tmp_path, 123, folder, name)
  with pytest.raises(DataFileError, match="is of the same seed as .*123") as caught:
    files.unlabelled_folder(tmp_path)
  assert "123." in caught.value.path and caught.value.remedy.startswith("Delete one of them")


def test_other_names_are_in_the_order_of_the_text(tmp_path):
  """Numbers below six digits, folders of classes, deeper folders: no seeds, and none is twice."""
  for place in ("9/000123.png", "10/000123.png", "a/b/000123.png", "000000/x.png", "2.png"):
    save(tmp_path, 1, place.rpartition("/")[0], place.rpartition("/")[2])
  found = [file.removeprefix(f"{tmp_path}/") for file in listing.images_below(tmp_path)]
  assert found == ["000000/x.png", "10/000123.png", "2.png", "9/000123.png", "a/b/000123.png"]


def test_seeds_are_not_taken_for_classes(tmp_path):
  for seed in (7, 1999):
    save(tmp_path, seed)
  message = r"'?000000'?, '?001000'?, which look like seeds.*Have a classifier label them"
  with pytest.raises(DataFileError, match=message):
    convert.open_source(tmp_path)
