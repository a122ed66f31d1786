"""The commands of the README's "Train, evaluate, export", as they stand but for sizes."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

import jax_robust
from jax_robust import main

SMALLER = {
  "train": [
    "--config.model.name=small_cnn", "--config.model.depth=none", "--config.model.width=none",
    "--config.model.channels=4,4", "--config.model.strides=2,2", "--config.batch.size=32",
    "--config.model.bn_group_size=8", "--config.batch.emulated_workers=2",
    "--config.total_steps=4", "--config.schedule.warmup_steps=1", "--config.save_steps=2",
    "--config.evaluate_steps=4", "--config.attack.num_steps=2", "--config.data.num_heldout=16",
    "--config.evals.robust.attack.num_steps=2", "--config.evaluation.batch_size=16",
    "--config.evaluation.num_examples=16", "--config.log_steps=2",
  ],
  "generate": ["--config.generate.num_shards=2"],
  "autoattack": ["--config.autoattack.version=apgd-ce", "--config.autoattack.chunk_size=16"],
  "certify": [
    "--config.smoothing.n=100", "--config.smoothing.max=4", "--config.smoothing.batch_size=50",
  ],
}  # fmt: skip
"""What makes a command small, by its job."""


def commands(repository):
  """The commands of that section, one list of arguments each."""
  text = (repository / "README.md").read_text().split("## Train, evaluate, export")[1]
  block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
  assert block
  lines = [shlex.split(line) for line in block.group(1).splitlines()]
  assert all(line[:3] == ["python", "-m", "jax_robust.main"] for line in lines)
  return [line[3:] for line in lines]


def make_images(path, count, shape=(32, 32, 3)):
  images = np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)
  np.savez(path, image=images, label=np.arange(count) % 10)


@pytest.fixture
def place(tmp_path, monkeypatch, repository):
  """A folder with a checkout's configs, a data set and generated images, all made up."""
  (tmp_path / "data").mkdir()
  for name, count in (("data/train", 96), ("data/test", 32), ("cifar10_ddpm", 64)):
    make_images(tmp_path / f"{name}.npz", count)
  (tmp_path / "configs").symlink_to(repository / "configs")
  monkeypatch.chdir(tmp_path)
  return tmp_path


def job_of(argv):
  named = [each for each in argv if each.startswith("--config.job=")]
  return named[0].partition("=")[2] if named else "train"


def run_all(every, capsys, *, data, shape):
  """Runs the commands, with arguments that say which data set of which shape is trained on."""
  jobs = [job_of(argv) for argv in every if argv != ["--help"]]
  assert jobs == ["generate", "train", "evaluate", "autoattack", "certify", "export"]
  for argv in every:
    extra = [] if argv == ["--help"] else SMALLER.get(job_of(argv), [])
    if "configs/" in argv[0]:
      extra = [*extra, *data]
    assert main.main([*argv, *extra]) == 0, (argv, capsys.readouterr().err)
  x = np.full((2, *shape), 0.5, np.float32)
  assert jax_robust.load("WORKDIR")(x).shape == (2, 10)


@pytest.mark.slow
def test_the_commands_of_the_readme_run(place, repository, capsys):
  run_all(commands(repository), capsys, data=["--config.data.name=./data"], shape=(32, 32, 3))


@pytest.mark.slow
def test_the_commands_run_on_a_prepared_tfds_set(place, repository, shared, capsys):
  """The real MNIST, as TFDS's own builder writes it; the workdir remembers where it lies."""
  for package in ("tensorflow", "tensorflow_datasets", "PIL", "importlib_resources"):
    pytest.importorskip(package, reason=f"TFDS's builders need {package}")
  script, folder = shared / "data" / "prepare_tfds.py", place / "tfds"
  command = [sys.executable, script, f"--data_dir={folder}", "mnist"]
  subprocess.run(command, check=True, capture_output=True)
  make_images(place / "cifar10_ddpm.npz", 64, (28, 28, 1))
  data = ["--config.data.name=mnist", f"--config.data_dir={folder}"]
  run_all(commands(repository), capsys, data=data, shape=(28, 28, 1))


def test_a_data_set_that_is_not_prepared_names_data_dir(place, repository, capsys):
  """What a reader meets who has not prepared CIFAR-10 yet."""
  trainings = [each for each in commands(repository)[1:] if job_of(each) == "train"]
  (argv,) = trainings
  assert main.main([*argv, f"--config.data_dir={place / 'nowhere'}"]) == 2
  error = capsys.readouterr().err
  assert "cifar10 is not prepared there" in error and "Set data_dir to the folder" in error
