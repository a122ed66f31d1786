"""The AutoAttack job: chunks never done twice, pieces that make a whole, mistakes named."""

import json
import re
import shutil
import signal

import numpy as np
import pytest

from jax_robust import jobs
from jax_robust.evaluate import attack_plots
from jax_robust.jobs import autoattack
from jax_robust.runs import pieces

JOB = "--config.job=autoattack"
FLAGS = (
  "--config.autoattack.version=apgd-ce,apgd-t", "--config.autoattack.chunk_size=3",
  "--config.evaluation.num_examples=8", "--config.autoattack.eps=0.02",
  "--config.evaluation.eps_list=0.05",
)  # fmt: skip
PLACE = "results/autoattack_linf_0.02"


@pytest.fixture(scope="module")
def whole(run_flag, command, trained, tmp_path_factory):
  """The workdir of an evaluation that nothing disturbed: look, don't touch."""
  folder = shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "run")
  flags = [*FLAGS, "--config.autoattack.save_examples=true"]
  done = command([run_flag, JOB, *flags, f"--workdir={folder}"])
  assert done.code == 0, done.printed
  return folder, done.printed


def read(folder):
  """What an evaluation wrote."""
  return json.loads((folder / "results" / "autoattack.json").read_text())


def flags_of(folder):
  """Its flags at every radius."""
  return [each["flags"] for each in read(folder)["evaluations"]]


def test_robustbench_would_not_list_it(whole):
  folder, printed = whole
  found = json.loads((folder / "results" / "robustbench.json").read_text())
  assert found["entry"]["architecture"] == "mlp" and found["entry"]["eps"] == "0.02"
  verdict = found["comparable with the leaderboard"]
  assert verdict == "no, because it has no leaderboard for 'made' on a whole test set"
  assert f"comparable with the leaderboard of RobustBench: {verdict}" in printed


def test_flags_stand_on_one_line(whole):
  text = (whole[0] / "results" / "autoattack.json").read_text()
  assert '"id": [0,1,2,3,4,5,6,7]' in text


def test_an_evaluation_leaves_numbers_flags_and_a_picture(whole):
  folder, printed = whole
  result = read(folder)
  assert [point["eps"] for point in result["curve"]] == [0.0, 0.02, 0.05]
  robust = [point["robust"] for point in result["curve"]]
  assert robust == sorted(robust, reverse=True) and robust[0] == result["clean"] > robust[-1]
  assert result["eps"] == 0.02 and result["robust"] == robust[1]
  assert result["versions"]["packages"]["jax"]
  for each in result["evaluations"]:
    assert each["complete"] and each["num_examples"] == 8
    assert each["flags"]["id"] == list(range(8))
    assert list(each["robust_after"]) == ["apgd-ce", "apgd-t"]
    assert each["robust"] == np.mean(each["flags"]["robust"]) == each["robust_after"]["apgd-t"]
    assert each["robust_interval"][0] <= each["robust"] <= each["robust_interval"][1]
    assert len(each["weights_sha256"]) == len(each["images_sha256"]) == 64
    assert each["max_distance"] <= each["eps"] * (1 + 1e-6) and each["forward_per_image"] >= 1
  assert (folder / "results" / "autoattack.png").stat().st_size > 10_000
  assert "robust accuracy after APGD-CE: " in printed and "eps 0.05: 8/8" in printed
  assert "| eps  | clean | apgd-ce | apgd-t |" in printed


@pytest.mark.thorough
def test_killed_between_and_inside_chunks_it_goes_on_to_the_same_flags(
  whole, command, run_flag, copy
):
  argv = [run_flag, JOB, *FLAGS, f"--workdir={copy}"]
  assert command(argv, (signal.SIGKILL, "arrays", 2, 0)).code == -9
  first = sorted(copy.glob("results/autoattack_*/chunk_*.npz"))
  assert len(first) == 2
  written = [path.stat().st_mtime_ns for path in first]
  assert command(argv, (signal.SIGKILL, "arrays", 3, 0.05)).code == -9
  done = command(argv)
  assert done.code == 0 and "images are there already" in done.printed
  assert [path.stat().st_mtime_ns for path in first] == written
  assert flags_of(copy) == flags_of(whole[0])


@pytest.mark.slow
def test_pieces_make_the_whole(whole, command, run_flag, trained, tmp_path):
  for i, mode in enumerate(("jit", "pmap")):
    piece = shutil.copytree(trained, tmp_path / "pieces" / str(i))
    flags = [f"--config.autoattack.shard={i}/2", f"--config.parallel={mode}"]
    done = command([run_flag, JOB, *FLAGS, *flags, f"--workdir={piece}"])
    assert done.code == 0, done.printed
    assert not any(each["complete"] for each in read(piece)["evaluations"])
  named = f"--config.autoattack.pieces={tmp_path}/pieces/*"
  merge = [run_flag, "--config.job=merge", named, f"--workdir={tmp_path / 'merged'}"]
  done = command([*merge, "--config.autoattack.eps=0.03"])
  assert done.code == 2 and "eps=0.03: the pieces were evaluated at 0.02, 0.05" in done.printed
  done = command([*merge, FLAGS[3]])
  assert done.code == 0, done.printed
  assert flags_of(tmp_path / "merged") == flags_of(whole[0])
  identity = json.loads((piece / PLACE / "identity.json").read_text())
  (piece / PLACE / "identity.json").write_text(json.dumps({**identity, "seed": 7}))
  done = command([*merge, FLAGS[3]])
  assert done.code == 2 and "seed: 7 there, 0 here" in done.printed


def test_pictures_and_numbers_have_the_names_of_the_classes(whole, tiny, tmp_path, monkeypatch):
  """Those that are noted beside the weights; also where pieces are put together elsewhere."""
  folder = shutil.copytree(whole[0], tmp_path / "run")
  names = [f"name {k}" for k in range(10)]
  noted = json.loads((folder / "data.json").read_text())
  (folder / "data.json").write_text(json.dumps({**noted, "class_names": names}))
  drawn = {}

  def draw(path, examples, curves, *, class_names, **options):
    drawn[path.parent.parent.name] = list(class_names)

  monkeypatch.setattr(attack_plots, "draw_evaluation", draw)
  config = tiny(
    "steps=80,save=4,evaluate=10,log=3", job="autoattack", autoattack__chunk_size=3,
    autoattack__version="apgd-ce,apgd-t", autoattack__eps=0.02, evaluation__num_examples=8,
    evaluation__eps_list=(0.05,),
  )  # fmt: skip
  autoattack.write_results(config, folder, sorted(folder.glob("results/autoattack_*/")))
  config.job, config.autoattack.pieces = "merge", (str(folder),)
  jobs.run(config, tmp_path / "merged")
  assert drawn == {"run": names, "merged": names}
  assert read(folder)["class_names"] == read(tmp_path / "merged")["class_names"] == names


def test_another_evaluation_in_the_same_workdir_is_refused(whole, command, run_flag, tmp_path):
  folder = shutil.copytree(whole[0], tmp_path / "copy")
  done = command(
    [run_flag, JOB, *FLAGS, "--config.autoattack.version=apgd-t", f"--workdir={folder}"]
  )
  assert done.code == 2
  assert "version: ['apgd-ce', 'apgd-t'] there, ['apgd-t'] here" in done.printed
  assert flags_of(folder) == flags_of(whole[0])


def test_a_damaged_chunk_is_named(whole, command, run_flag, tmp_path):
  folder = shutil.copytree(whole[0], tmp_path / "copy")
  chunk = folder / PLACE / "chunk_0000003.npz"
  chunk.write_bytes(chunk.read_bytes()[:200])
  done = command([run_flag, JOB, *FLAGS, f"--workdir={folder}"])
  assert done.code == 2 and f"{chunk} is damaged" in done.printed


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    (
      "autoattack.version=standart",
      "config.autoattack: version='standart': did you mean 'standa",
    ),
    ("autoattack.version=apgd-ce,fabt", "attack='fabt': did you mean 'fab"),
    ("autoattack.shard=2/2", "shard='2/2': expected I/N with 0 <= I < N"),
    ("autoattack.chunk_size=0", "chunk_size=0: expected a whole number"),
    ("autoattack.chunks=3", "unknown config key 'autoattack.chunks'.*chunk_size"),
  ],
)
def test_mistakes_are_named(flag, message, command, run_flag, trained):
  done = command([run_flag, JOB, f"--config.{flag}", f"--workdir={trained}"])
  assert done.code == 2
  assert re.search(message, done.printed), done.printed


def test_pieces_without_examples_are_told_of(tmp_path, capsys):
  store = pieces.Arrays(tmp_path / "work", {"eps": 0.1}, range(4), size=2)
  store.write({"id": np.arange(2), "x_adv": np.zeros(2)})
  autoattack.tell_of_examples(store)
  assert "hold no" not in capsys.readouterr().err
  store.write({"id": np.arange(2, 4)})
  autoattack.tell_of_examples(store)
  assert "1 pieces that are there hold no adversarial examples" in capsys.readouterr().err


def test_examples_are_saved_where_asked_for(whole):
  with np.load(whole[0] / PLACE / "chunk_0000003.npz") as chunk:
    assert chunk["x_adv"].shape == (3, 12, 12, 3) and chunk["x_adv"].dtype == np.float32
    assert chunk["x_adv"].min() >= 0 and chunk["x_adv"].max() <= 1
