"""The job that looks at candidate sets: known sets, a kill, other weights, and its mistakes."""

import json
import signal

import numpy as np
import pytest
import rows
from narrow_lpips import made as narrow_weights

from jax_robust import api
from jax_robust import config as config_lib
from jax_robust.image_sets import complementarity, distances, lpips
from jax_robust.jobs import complementarity as job
from jax_robust.runs import candidates, pieces

SIDE, NUM = 16, 60


def smooth(seed, num=NUM):
  """Images of few frequencies, so that those of one seed are like those of another."""
  coarse = np.random.default_rng(seed).integers(0, 256, (num, 4, 4, 3), np.uint8)
  return coarse.repeat(4, 1).repeat(4, 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A data set, copies of its training images, images like one another, narrow weights of LPIPS."""
  place = tmp_path_factory.mktemp("sets")
  (place / "data").mkdir()
  for name, images in {
    "data/train": smooth(0), "data/test": smooth(1, 2 * NUM), "copies": smooth(0) ^ 1,
    "alike": smooth(2, 1) ^ smooth(3) % 4, "small": smooth(4)[:, :8, :8],
  }.items():  # fmt: skip
    np.savez(place / f"{name}.npz", image=images, label=np.arange(len(images)) % 10)
  np.savez(place / "lpips.npz", **narrow_weights("vgg16"))
  return place


@pytest.fixture(scope="module")
def argv(place):
  """`argv(workdir, **options)`: the command, of 60 images a set and LPIPS' features."""

  def argv(workdir, **options):
    options = {
      "candidates": f"{place}/copies.npz,{place}/alike.npz,heldout,noise", "pool_size": NUM,
      "features": place / "lpips.npz", **options,
    }  # fmt: skip
    flags = [f"--config.complementarity.{key}={value}" for key, value in options.items()]
    sizes = ["--config.evaluation.batch_size=32", "--config.data.num_heldout=0"]
    return ["--config=complementarity", f"--config.data.name={place}/data", *flags, *sizes,
            "--config.evaluation.checkpoint=latest", f"--workdir={workdir}"]  # fmt: skip

  return argv


@pytest.fixture(scope="module")
def finished(argv, command, tmp_path_factory):
  """A workdir that was killed after three pieces, and finished: (folder, what was printed)."""
  folder = tmp_path_factory.mktemp("finished") / "W"
  assert command(argv(folder), (signal.SIGKILL, "arrays", 3, 0)).code == -signal.SIGKILL
  done = command(argv(folder))
  assert done.code == 0, done.printed
  return folder, done.printed


def result_in(folder):
  return json.loads((folder / "results" / "complementarity.json").read_text())


def features_in(folder, name):
  parts = pieces.find([folder / "results" / f"complementarity_{name}"]).contents()
  return np.concatenate([part["features"] for part in parts])


def test_known_sets_are_seen_for_what_they_are(finished):
  folder, printed = finished
  result = result_in(folder)
  found = result["candidates"]
  assert list(found) == ["copies", "alike", "heldout", "noise"] and not result.get("warnings")
  assert result["pool_size"] == NUM and result["cut_by"] == ""
  assert result["features"]["space"] == "LPIPS of vgg16"
  assert found["copies"]["train"]["value"] > 0.9 and found["copies"]["same_row_of_train"] > 0.9
  assert found["alike"]["self"]["value"] > 0.9 and found["alike"]["recall"] < 0.1
  for pool in ("train", "test", "self"):
    low, high = found["heldout"][pool]["interval"]
    assert low < 1 / 3 < high
  assert found["heldout"]["distance_to_reference"] == 0 < found["noise"]["distance_to_reference"]
  assert found["heldout"]["fid"] < found["noise"]["fid"]
  assert "features: LPIPS of vgg16; 60 images a set" in printed and "| copies " in printed
  assert (folder / "results" / "complementarity.png").stat().st_size > 10_000


def test_numbers_are_those_of_the_features_that_were_kept(finished, place):
  folder, _ = finished
  found = result_in(folder)["candidates"]["noise"]
  noise, train, test = (features_in(folder, name) for name in ("noise", "train", "test"))
  shares = complementarity.shares(complementarity.nearest_places(noise, train, test).pool)
  assert {pool: found[pool]["value"] for pool in shares} == {
    pool: each.value for pool, each in shares.items()
  }
  assert found["fid"] == pytest.approx(distances.frechet_distance(noise, test))
  weights = lpips.read_weights(place / "lpips.npz")
  x = smooth(1, 2 * NUM) / np.float32(255)
  direct = np.asarray(lpips.features(weights, x))
  apart = np.linalg.norm(test[:, None] - direct[None], axis=-1)
  assert apart.min(1).max() < 1e-3  # each is of an image of the test split, and of another one
  held = np.linalg.norm(features_in(folder, "heldout")[:, None] - direct[None], axis=-1)
  assert not {*apart.argmin(1)} & {*held.argmin(1)}


def test_after_a_kill_it_goes_on(finished):
  _, printed = finished
  assert "train: 60 of 60 images are there already" in printed
  assert "test: 32 of 60 images are there already" in printed and "test: 60/60" in printed


@pytest.mark.slow
def test_a_kill_changes_nothing(finished, argv, command, tmp_path):
  folder, _ = finished
  done = command(argv(tmp_path / "whole"))
  assert done.code == 0, done.printed
  assert result_in(tmp_path / "whole")["candidates"] == result_in(folder)["candidates"]


def test_a_run_gives_its_features_and_small_sets_cut_all(trained, tmp_path):
  changes = {"complementarity.features": str(trained), "complementarity.projection": 3,
             "complementarity.candidates": ("heldout", "augment:mixup"),
             "data.num_heldout": 8, "evaluation.batch_size": 16, "data.name": "made"}  # fmt: skip
  found = api.run("complementarity", tmp_path / "W", changes).result
  assert found["features"]["space"].startswith("what the last layer of mlp reads, trained on made")
  assert found["features"]["space"].endswith("; not LPIPS") and found["num_features"] == 3
  assert found["pool_size"] == 36 and found["cut_by"] == "test"


def test_sets_are_brought_to_the_size_of_the_training_images(place):
  config = config_lib.load("complementarity")
  config.data.update({"name": "made", "image_size": 12, "num_heldout": 0})
  np.savez(
    place / "large.npz", image=np.full((20, 24, 24, 3), 7, np.uint8), label=np.arange(20) % 10
  )
  pools = candidates.open_pools(config, {"large": f"{place}/large.npz"}, size=20, key="candidates")
  assert pools.candidates["large"].image_shape == pools.train.image_shape == (12, 12, 3)


def test_mistakes_are_sentences(argv, command, place, tmp_path):
  for options, message in {
    ("features", f"{place}/lpisp.npz"): f"did you mean '{place}/lpips.npz'?",
    ("features", f"{place}/copies.npz"): "holds no weights of LPIPS: its convolutions are",
    ("candidates", f"heldout,{place}/small.npz"): "small has images of shape [8, 8, 3]",
  }.items():
    done = command(argv(tmp_path / "W", **dict([options])))
    assert done.code == 2 and message in done.printed, (options, done.printed)
    assert "Traceback" not in done.printed


def test_mistakes_are_found_before_the_workdir_is_touched(place):
  copies = f"{place}/copies.npz"
  bad = {
    "no features": ({"features": ""}, "complementarity.features is empty: name the workdir of a"),
    "no sets": ({"candidates": ()}, "complementarity.candidates is empty: name sets"),
    "path": ({"candidates": (f"{place}/copeis.npz",)}, f"did you mean '{copies}'"),
    "control": ({"candidates": ("niose",)}, "no set of images 'niose': did you mean 'noise'"),
    "augmentation": ({"candidates": ("augment:cutuot",)}, "'cutuot': did you mean 'cutout'"),
    "twice": ({"candidates": (f"noise={copies}", "noise")}, "'noise' stands for two sets"),
    "a pool": ({"candidates": (f"test={copies}",)}, "'test' is the name of a pool"),
    "no word": ({"candidates": (f"a b={copies}",)}, "'a b' can't name a set"),
    "reference": ({"reference": "tset"}, "reference='tset': expected one of 'copies'"),
    "pool size": ({"pool_size": 5}, "config.complementarity: pool_size=5"),
    "projection": ({"projection": -1}, "config.complementarity: projection=-1"),
  }  # fmt: skip

  def check(changes):
    config = config_lib.load("complementarity")
    good = {"features": copies, "candidates": (copies,), "reference": "copies"}
    with config.unlocked(), config.ignore_type():
      config.complementarity.update({**good, **changes})
    job.check(config)

  rows.assert_all_refused(bad, check)


def test_other_features_are_not_mixed(finished, argv, command):
  folder, _ = finished
  done = command(argv(folder, projection=2))
  assert done.code == 2 and "belongs to another job than this one" in done.printed
  assert "projection: 0 there, 2 here" in done.printed
