"""`configs/own_images.py`: photos of unequal sizes are trained on, evaluated and reopened."""

import json

import numpy as np
import pytest
from PIL import Image

import jax_robust
from jax_robust import config as config_lib
from jax_robust import main
from jax_robust.data import convert

SMALL = (
  "batch.size=8", "batch.backend=resident", "total_steps=4", "save_steps=2", "evaluate_steps=4",
  "log_steps=2", "data.num_heldout=4", "evaluation.batch_size=8", "attack.num_steps=1",
  "evals.robust.attack.num_steps=1", "model.channels=4,4", "trackers=",
)  # fmt: skip


def make(root, names, count=12):
  rng = np.random.default_rng(0)
  for value, name in enumerate(names):
    (root / name).mkdir(parents=True)
    for index in range(count):
      shape = (*rng.integers(9, 15, 2), 3)
      image = rng.integers(0, 60, shape) + 180 * value
      Image.fromarray(image.astype(np.uint8)).save(root / name / f"{index}.png")
  return root


@pytest.mark.thorough
def test_photos_are_trained_on_and_reopened(command, tmp_path):
  photos, folder = make(tmp_path / "photos", ("cat", "dog")), tmp_path / "run"
  argv = [f"--config=own_images:data={photos},size=8", f"--workdir={folder}"]
  argv += [f"--config.{flag}" for flag in SMALL]
  done = command(argv)
  assert done.code == 0, done.printed
  done = command([f"--config={folder}/config.json", f"--workdir={folder}", "--config.job=evaluate"])
  assert done.code == 0, done.printed
  told = json.loads((folder / "data.json").read_text())
  assert told["class_names"] == ["cat", "dog"] and told["image_shape"] == [8, 8, 3]
  assert told["num_train"] == 24 - 5 - 4
  test = convert.open_split(photos, "test", image_size=8, test_share=0.2)
  assert json.loads((folder / "results" / "evaluate.json").read_text())["num_examples"] == 5
  images, _ = test.read(np.arange(5))
  assert jax_robust.load(str(folder))(images / np.float32(255)).shape == (5, 2)


@pytest.mark.parametrize(
  "num_images, size, wanted",
  [
    (40, 12, ("small_cnn", 32, 200.0, "resident", 4)),
    (40, 64, ("preact_resnet18", 32, 200.0, "resident", 4)),
    (3000, 224, ("resnet50", 128, 200.0, "resident", 300)),
    (200_000, 64, ("preact_resnet18", 128, 50.0, "tfdata", 1024)),
  ],
)
def test_the_recipe_goes_by_size_and_number(monkeypatch, num_images, size, wanted):
  monkeypatch.setattr(convert, "survey", lambda path: (num_images, (size, size + 9, 3)))
  config = config_lib.load("own_images:data=x")
  found = config.model.name, config.batch.size, config.total_epochs, config.batch.backend
  assert (*found, config.data.num_heldout) == wanted
  assert config.data.name == "./x" and config.augment.pad == size // 8


@pytest.mark.parametrize(
  "train, test, argument, message",
  [
    ((), (), "size=8", "is empty: it holds no folder of images"),
    (("cat",), (), "size=8", "has a single class, 'cat': expected two or more"),
    (("cat", "dog"), ("cat", "cow"), "size=8", "['cow'] cannot be matched"),
    (("cat", "dog"), (), "", "--config.data.image_size=64 brings them to one"),
    (("cat", "dog"), (), "size=8,test_share=0", "has no split 'train'"),
    (("cat", "dog"), (), "size=8,test_share=2", "data.test_share=2.0: expected a share"),
    (("cat", "dog"), (), "size=8,method=trade", "method='trade': did you mean 'trades'"),
    (("cat", "dog", "!broken"), (), "size=8", "0.png: cannot be decoded"),
  ],
)
def test_a_mistake_is_a_sentence(capsys, monkeypatch, tmp_path, train, test, argument, message):
  monkeypatch.setattr(main, "_set_up_logging", lambda: None)
  photos = tmp_path / "photos"
  photos.mkdir()
  make(photos / "train" if test else photos, [name for name in train if name[0] != "!"])
  make(photos / "test", test)
  if "!broken" in train:
    (photos / "cat" / "0.png").write_bytes(b"no image")
  if not test:
    (photos / "test").rmdir() if (photos / "test").exists() else None
  argv = [f"--config=own_images:data={photos},{argument}", f"--workdir={tmp_path / 'run'}"]
  assert main.main(argv) == 2
  assert message in capsys.readouterr().err
