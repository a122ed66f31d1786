"""The AutoAttack job: chunks never done twice, pieces that make a whole, mistakes named."""

import json
import shutil
import signal

import numpy as np
import pytest

JOB = "--config.job=autoattack"
FLAGS = (
  "--config.autoattack.version=apgd-ce,apgd-t", "--config.autoattack.chunk_size=3",
  "--config.evaluation.attack.eps=0.02", "--config.evaluation.eps_list=0.005,0.05",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(run_flag, command, trained, tmp_path_factory):
  """The workdir of an evaluation that nothing disturbed: look, don't touch."""
  folder = shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "run")
  done = command([run_flag, JOB, *FLAGS, f"--workdir={folder}"])
  assert done.code == 0, done.printed
  return folder, done.printed


def read(folder):
  """What an evaluation wrote."""
  return json.loads((folder / "results" / "autoattack.json").read_text())


def flags_of(folder):
  """Its flags at every radius."""
  return [each["flags"] for each in read(folder)["evaluations"]]


def test_an_evaluation_leaves_numbers_flags_and_a_picture(whole):
  folder, printed = whole
  result = read(folder)
  assert [point["eps"] for point in result["curve"]] == [0.0, 0.005, 0.02, 0.05]
  robust = [point["robust"] for point in result["curve"]]
  assert robust == sorted(robust, reverse=True) and robust[0] == result["clean"] > robust[-1]
  assert result["eps"] == 0.02 and result["robust"] == robust[2]
  assert result["versions"]["packages"]["jax"]
  for each in result["evaluations"]:
    assert each["complete"] and each["num_examples"] == 16
    assert each["flags"]["id"] == list(range(16))
    assert list(each["robust_after"]) == ["apgd-ce", "apgd-t"]
    assert each["robust"] == np.mean(each["flags"]["robust"]) == each["robust_after"]["apgd-t"]
    assert each["robust_interval"][0] <= each["robust"] <= each["robust_interval"][1]
    assert len(each["weights_sha256"]) == len(each["images_sha256"]) == 64
    assert each["max_distance"] <= each["eps"] * (1 + 1e-6) and each["forward_per_image"] >= 1
  assert (folder / "results" / "autoattack.png").stat().st_size > 10_000
  assert "robust accuracy after APGD-CE: " in printed and "16/16" in printed
  assert "| eps   | clean | apgd-ce | apgd-t |" in printed


def test_killed_between_and_inside_chunks_it_goes_on_to_the_same_flags(
  whole, command, run_flag, copy
):
  argv = [run_flag, JOB, *FLAGS, f"--workdir={copy}"]
  assert command(argv, (signal.SIGKILL, "arrays", 2, 0)).code == -9
  first = sorted(copy.glob("results/autoattack_*/chunk_*.npz"))
  assert len(first) == 2
  written = [path.stat().st_mtime_ns for path in first]
  assert command(argv, (signal.SIGKILL, "arrays", 8, 0.05)).code == -9
  done = command(argv)
  assert done.code == 0 and "images are there already" in done.printed
  assert [path.stat().st_mtime_ns for path in first] == written
  assert flags_of(copy) == flags_of(whole[0])


def test_pieces_make_the_whole_and_gaps_and_overlaps_are_refused(
  whole, command, run_flag, trained, tmp_path
):
  pieces = [tmp_path / "pieces" / str(i) for i in range(2)]
  for i, piece in enumerate(pieces):
    shutil.copytree(trained, piece)
    shard = f"--config.autoattack.shard={i}/2"
    done = command([run_flag, JOB, *FLAGS, shard, "--config.parallel=pmap", f"--workdir={piece}"])
    assert done.code == 0, done.printed
    assert not any(each["complete"] for each in read(piece)["evaluations"])
  named = f"--config.autoattack.pieces={tmp_path}/pieces/*"
  merge = [run_flag, "--config.job=merge", *FLAGS[2:3], named, f"--workdir={tmp_path / 'merged'}"]
  done = command(merge)
  assert done.code == 0, done.printed
  assert flags_of(tmp_path / "merged") == flags_of(whole[0])

  place = "results/autoattack_linf_0.02"
  shutil.copyfile(pieces[0] / place / "chunk_0000000.npz", pieces[1] / place / "chunk_0000000.npz")
  done = command(merge)
  assert done.code == 2 and "overlap" in done.printed
  (pieces[1] / place / "chunk_0000000.npz").unlink()
  (pieces[1] / place / "chunk_0000003.npz").unlink()
  done = command(merge)
  assert done.code == 2 and "gap: 3 of the 16 ids" in done.printed
  identity = json.loads((pieces[1] / place / "identity.json").read_text())
  (pieces[1] / place / "identity.json").write_text(json.dumps({**identity, "seed": 7}))
  done = command(merge)
  assert done.code == 2 and "seed: 7 there, 0 here" in done.printed


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
  chunk = folder / "results" / "autoattack_linf_0.02" / "chunk_0000003.npz"
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
  import re

  assert re.search(message, done.printed), done.printed


@pytest.mark.parametrize(
  ("pieces", "message"),
  [("", "pieces is empty"), ("/nowhere/*", "there is no workdir '/nowhere/\\*'")],
)
def test_a_merge_of_nothing_is_a_mistake(pieces, message, command, run_flag, tmp_path):
  flags = [f"--config.autoattack.pieces={pieces}"] if pieces else []
  done = command([run_flag, "--config.job=merge", *flags, f"--workdir={tmp_path / 'merged'}"])
  assert done.code == 2 and message.replace("\\", "") in done.printed


def test_examples_are_saved_where_asked_for(command, run_flag, copy):
  done = command(
    [run_flag, JOB, *FLAGS[:3], "--config.autoattack.save_examples=true", f"--workdir={copy}"]
  )
  assert done.code == 0, done.printed
  with np.load(copy / "results" / "autoattack_linf_0.02" / "chunk_0000003.npz") as chunk:
    assert chunk["x_adv"].shape == (3, 12, 12, 3) and chunk["x_adv"].dtype == np.float32
    assert chunk["x_adv"].min() >= 0 and chunk["x_adv"].max() <= 1
