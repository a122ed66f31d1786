"""What a workdir claims: damage, links, what was left or taken away, and what can't be kept."""

import errno
import functools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys

import failing
import numpy as np
import pytest
from rows import mostly_slow

from jax_robust import atomic
from jax_robust import errors as errors_lib
from jax_robust.runs import row_log, weights, workdir
from jax_robust.train import checkpoint, metrics

CERTIFY = (
  "--config.job=certify", "--config.smoothing.sigma=0.25", "--config.smoothing.n=400",
  "--config.smoothing.stop=8", "--config.smoothing.skip=2", "--config.smoothing.batch_size=800",
)  # fmt: skip
AUTOATTACK = (
  "--config.job=autoattack", "--config.autoattack.version=apgd-ce",
  "--config.autoattack.chunk_size=4", "--config.evaluation.num_examples=8",
  "--config.autoattack.eps=0.02",
)  # fmt: skip
NAME = "certify_mlp_sigma0.25"


@pytest.fixture(scope="module")
def certified(run_flag, command, trained, tmp_path_factory):
  """A trained workdir with a certification: look, don't touch."""
  folder = shutil.copytree(trained, tmp_path_factory.mktemp("certified") / "run")
  done = command([run_flag, *CERTIFY, f"--workdir={folder}"])
  assert done.code == 0, done.printed
  return folder


@pytest.fixture
def run(certified, tmp_path):
  """A copy of it."""
  return pathlib.Path(shutil.copytree(certified, tmp_path / "run"))


def everything_in(folder):
  """Every file with its content."""
  return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done, *messages, code=2):
  """The command ended with a code, all the messages, and no traceback."""
  assert done.code == code, done.printed
  # TensorStore's threads may say on their own that nobody waits for them any longer.
  assert "/jax_robust/" not in done.printed, "no traceback of ours"
  for message in messages:
    assert message in done.printed, done.printed


def flip(path, draw):
  content = bytearray(path.read_bytes())
  content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
  path.write_bytes(content)


def largest(folder):
  return max(
    (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
  )


# Digests


@pytest.mark.parametrize("kind", checkpoint.KINDS)
def test_no_job_uses_a_checkpoint_with_a_flipped_bit(run, kind):
  place = run / "checkpoints" / kind
  newest = max(place.glob("[0-9]*"), key=lambda path: int(path.name))
  whole, num_refused = weights.run_weights(run, which=kind)[0], 0
  for seed in range(4):
    draw, content = random.Random(seed), largest(newest).read_bytes()
    flip(largest(newest), draw)
    try:
      found, _ = weights.run_weights(run, which=kind)
    except checkpoint.CheckpointDamagedError as error:
      assert f"{kind}/{newest.name} can't be r" in str(error)
      num_refused += 1
    else:  # the bit is of no array that is read, such as the optimiser's
      assert found.keys() == whole.keys()
      for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array)
    largest(newest).write_bytes(content)
  assert num_refused
  assert weights.run_weights(run, which=kind)


def test_a_damaged_run_is_not_resumed_or_evaluated(command, run_flag, run):
  for kind in checkpoint.KINDS:
    for newest in (run / "checkpoints" / kind).glob("[0-9]*"):
      flip(largest(newest), random.Random(1))
  refused(command([run_flag, f"--workdir={run}"]), "can't be read", "delete that folder to")
  done = command([run_flag, "--config.job=evaluate", f"--workdir={run}"])
  refused(done, "checkpoints/best/", "can't be read")


@pytest.mark.parametrize("name", ["data.json", "config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "7", "[" * 10**5])
def test_damaged_notes_are_named(command, run_flag, trained, tmp_path, name, content):
  (tmp_path / "run").mkdir()
  shutil.copyfile(trained / "config.json", tmp_path / "run" / "config.json")
  (tmp_path / "run" / name).write_text(content)
  with pytest.raises(errors_lib.WorkdirError, match=rf"{name} is (damaged|no config of ours) \("):
    if name == "data.json":
      workdir.read_note(tmp_path / "run" / name)
    else:
      workdir.read_config(tmp_path / "run")


UNUSABLE = {
  "nan": (np.array([np.nan, 1], np.float32), "params/a holds NaN or infinity, in 1 of its 2"),
  "inf": (np.array([np.inf, -np.inf], np.float32), "in 2 of its 2"),
  "int8": (np.array([3, 4], np.int8), "params/a has dtype int8: expected floating-point"),
  "int64": (np.array([3, 4]), "params/a has dtype int64"),
  "bool": (np.array([True]), "params/a has dtype bool"),
  "complex": (np.array([1j]), "params/a has dtype complex128"),
}


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("case", UNUSABLE)
def test_weights_that_are_none_are_refused_by_name(tmp_path, case, suffix):
  from safetensors.numpy import save_file

  array, message = UNUSABLE[case]
  if case == "complex" and suffix == "safetensors":
    pytest.skip("safetensors has no complex numbers")
  arrays = {"params/a": array, "params/b": np.zeros(2, np.float32)}
  path = tmp_path / f"weights.{suffix}"
  if suffix == "npz":
    np.savez(path, **arrays)
  else:
    save_file(arrays, path)
  with pytest.raises(errors_lib.ConfigError, match="holds no usable weights") as caught:
    weights.read_weights(str(path))
  assert message in str(caught.value) and "params/b" not in str(caught.value)
  arrays = {"params/a": np.zeros(2, np.float16), "batch_stats/count": np.array(3)}
  np.savez(tmp_path / "good.npz", **arrays)
  assert weights.read_weights(str(tmp_path / "good.npz")).keys() == arrays.keys()


# Certificates


def edited_rows(run, change):
  """Changes the rows of a certification, their digests too: as if they had been computed so."""
  path = run / "results" / NAME / "piece-0-of-1.jsonl"
  contents = row_log.read(path)
  rows = list(contents.rows.values())
  change(rows)
  path.write_text(path.read_text().splitlines(keepends=True)[0])
  work = row_log.start(path, contents.header["identity"], range(*contents.header["ids"]))
  for row in rows:
    row_log.append(path, row, work=work)
  return path


ROWS = {
  "a radius of 5": (lambda rows: rows[2].update(radius=5.0), "id 4: radius=5, where its votes"),
  "a label": (
    lambda rows: rows[2].update(label=(rows[2]["label"] + 1) % 10), "its labels are not those of"
  ),
  "a class": (lambda rows: rows[2].update(predict=9, selected=8), "id 4: predict=9"),
  "no votes": (lambda rows: rows[2].pop("count"), "a row has not what a certificate has"),
}  # fmt: skip


@pytest.mark.parametrize("case", mostly_slow([(c,) for c in ROWS], ("a radius of 5",)))
def test_changed_rows_are_refused_by_all_jobs_that_read_them(command, run_flag, run, case):
  change, message = ROWS[case]
  path = edited_rows(run, change)
  refused(command([run_flag, *CERTIFY, f"--workdir={run}"]), str(path), message)
  log = f"--config.smoothing.logs={run}/results/{NAME}/certify.tsv"
  argv = [run_flag, "--config.job=analyse", log, f"--workdir={run.parent / 'analysis'}"]
  refused(command(argv), str(path), message)


def test_a_changed_row_is_computed_again_once_its_line_is_gone(command, run_flag, run, certified):
  path = edited_rows(run, lambda rows: rows[2].update(radius=5.0))
  done = command([run_flag, *CERTIFY, f"--workdir={run}"])
  refused(done, f"{path}, line 4, id 4: radius=5")
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:3] + lines[4:]))
  assert command([run_flag, *CERTIFY, f"--workdir={run}"]).code == 0
  ours, theirs = (
    json.loads((folder / "results" / f"{NAME}.json").read_text()) for folder in (run, certified)
  )
  assert ours["average_certified_radius"] == theirs["average_certified_radius"]


LOGS = {
  "radius": (r"\t\d+\.\d+\t0\t", "\t5.0\t0\t", "has radius=5, which is above"),
  "radius by little": (r"\t(0\.\d)\d+\t", r"\t\g<1>\t", "not what they were written as"),
  "a row": (r"\n4\t.*", "", "there are 3 rows, its header says num_images=4"),
  "the last line's end": (r"\n\Z", "", "the file is cut"),
  "the sigma": (r'"sigma": 0.25', '"sigma": 0.5', "not what they were written as"),
}


@pytest.mark.parametrize("case", mostly_slow([(c,) for c in LOGS], ("radius",), ("a row",)))
def test_a_changed_log_is_not_analysed(command, run_flag, run, case):
  old, new, message = LOGS[case]
  path = run / "results" / NAME / "certify.tsv"
  text = path.read_text()
  assert re.search(old, text), text
  path.write_text(re.sub(old, new, text, count=1))
  argv = [run_flag, "--config.job=analyse", f"--config.smoothing.logs={path}"]
  refused(command([*argv, f"--workdir={run.parent / 'analysis'}"]), str(path), message)


# What is missing


@pytest.mark.parametrize(
  "job",
  mostly_slow([("train",), ("evaluate",), ("autoattack",), ("certify",), ("export",)], ("train",)),
)
def test_a_workdir_without_its_config_is_refused(command, run_flag, run, job):
  (run / "config.json").unlink()
  before = everything_in(run)
  flags = CERTIFY if job == "certify" else [f"--config.job={job}"]
  done = command([run_flag, *flags, f"--workdir={run}"])
  refused(done, str(run), "no config.json")
  after = everything_in(run)
  assert {path: after[path] for path in before if path.name != "lock"} == {
    path: content for path, content in before.items() if path.name != "lock"
  }


@pytest.mark.parametrize("kept", ["checkpoints", "results", "metrics.jsonl"])
def test_any_part_of_a_run_without_a_config_is_refused(tiny, trained, tmp_path, kept):
  for name in (kept, "lock"):
    copy = shutil.copytree if (trained / name).is_dir() else shutil.copyfile
    copy(trained / name, tmp_path / name)
  with pytest.raises(errors_lib.WorkdirError, match=f"no config.json, but .*{kept}: of which run"):
    workdir.write_identity(tmp_path, tiny())


def test_pieces_and_weights_without_a_config_are_refused(command, run_flag, run):
  (run / "config.json").unlink()
  merge = [run_flag, "--config.job=merge", f"--config.smoothing.pieces={run}"]
  refused(command([*merge, f"--workdir={run.parent / 'all'}"]), f"{run} is no workdir of a run")
  init = [run_flag, f"--config.init_from={run}", "--config.job=evaluate"]
  refused(command([*init, f"--workdir={run.parent / 'new'}"]), f"{run} is no workdir of a run")


@pytest.mark.thorough
def test_missing_rows_of_metrics_are_said(command, run_flag, run):
  path = run / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  argv = [run_flag, f"--workdir={run}"]
  assert "warning" not in command(argv).printed
  path.write_text("".join(lines[:5] + lines[8:]))
  done = command(argv)
  expected = f"{path} has {len(lines) - 3} of the {len(lines)} rows that were written up to step 80"
  assert done.code == 0 and expected in done.printed, done.printed
  path.unlink()
  assert f"{path} has 0 of the {len(lines)} rows" in command(argv).printed


# What goes away meanwhile


@pytest.mark.parametrize(
  ("job", "how"),
  mostly_slow(
    [(job, how) for job in ("train", "certify") for how in ("delete", "move", "replace")],
    ("train", "replace"),
    ("certify", "delete"),
  ),
)
def test_a_workdir_that_goes_away_ends_the_job(command, run_flag, trained, tmp_path, how, job):
  folder, act = tmp_path / "run", getattr(failing, how)
  argv = [run_flag, f"--workdir={folder}"]
  if job == "certify":
    shutil.copytree(trained, folder)
    argv += CERTIFY
  event, count = {"train": ("save", 5), "certify": ("rows", 2)}[job]
  done = command(argv, (functools.partial(act, folder), event, count, 0.0))
  refused(done, "was deleted, moved or replaced while the job was running", code=1)
  if act is not failing.replace:
    # A checkpoint that was being written may have made its folder anew.
    assert not (folder / "config.json").exists() and not (folder / "results").exists()


def test_a_workdir_that_goes_away_before_the_result_stays_away(tiny, tmp_path):
  folder = tmp_path / "run"
  with pytest.raises(atomic.FolderGoneError), workdir.claimed(str(folder)):
    shutil.rmtree(folder)
    workdir.write_result(folder, "evaluate", {})
  assert not folder.exists()
  with pytest.raises(atomic.FolderGoneError), workdir.claimed(str(folder)):
    failing.replace(folder)


# Links, and what was left behind


@pytest.mark.parametrize(
  "name",
  mostly_slow(
    [("lock",), ("metrics.jsonl",), ("config.json",), ("data.json",)], ("lock",), ("metrics.jsonl",)
  ),
)
def test_no_file_of_a_workdir_is_written_through_a_link(command, run_flag, run, name):
  target = run.parent / "precious"
  (run / name).rename(target)
  (run / name).symlink_to(target)
  before = target.read_bytes()
  done = command([run_flag, f"--workdir={run}"])
  assert target.read_bytes() == before
  if name == "lock":
    refused(done, f"{run / name} is a symbolic link, which is never written through: delete it")
  else:
    assert done.code == 0 and not (run / name).is_symlink()


@pytest.mark.parametrize(
  "name",
  mostly_slow(
    [("train.json",), (f"{NAME}.json",), (f"{NAME}.png",), (f"{NAME}/certify.tsv",)],
    (f"{NAME}.png",),
  ),
)
def test_no_result_is_written_through_a_link(command, run_flag, run, name):
  target, path = run.parent / "precious", run / "results" / name
  target.write_bytes(b"mine")
  path.unlink()
  path.symlink_to(target)
  flags = [] if name == "train.json" else CERTIFY
  assert command([run_flag, *flags, f"--workdir={run}"]).code == 0
  assert target.read_bytes() == b"mine" and not path.is_symlink()


def test_what_a_killed_job_left_half_written_is_removed(command, run_flag, run):
  left = [
    run / ".generated.partial-123-ab" / "shard",
    run / ".config.json.partial-123-ab",
    run / "results" / ".train.json.partial-123-ab",
    run / "results" / NAME / ".certify.tsv.partial-123-ab",
    run / "export" / ".weights.safetensors.partial-1-a",
  ]
  for path in left:
    path.parent.mkdir(exist_ok=True)
    path.touch()
  (run / "results" / ".link.partial-1-a").symlink_to(run / "checkpoints")
  assert command([run_flag, f"--workdir={run}"]).code == 0
  assert not list(run.rglob(".*.partial-*"))
  assert (run / "checkpoints" / "latest").is_dir()


def test_other_processes_may_be_writing(run, monkeypatch):
  """The first of several processes leaves alone what may be the others'."""
  new, old = (run / f".{name}.partial-1-a" for name in ("new", "old"))
  for path in (new, old):
    path.touch()
  os.utime(old, (0, 0))
  monkeypatch.setattr(workdir.jax, "process_count", lambda: 2)
  with workdir.claimed(str(run)):
    assert new.exists() and not old.exists()


@pytest.mark.parametrize("how", mostly_slow([("file",), ("folder",)], ("folder",)))
def test_sigterm_leaves_nothing_half_written(tmp_path, how):
  program = (
    "import os, signal, pathlib\n"
    "from jax_robust import atomic\n"
    "from jax_robust.data import publishing\n"
    f"path = pathlib.Path({str(tmp_path)!r}) / 'x'\n"
    "kill = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
    + ("atomic.write_atomically(path, kill)\n" if how == "file" else "")
    + ("with publishing.partial_folder(path) as p:\n  (p / 'y').touch()\n  kill()\n")
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
  assert done.returncode == 143, done.stderr
  assert not list(tmp_path.iterdir())
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_run_that_cannot_be_written_says_how_it_is_evaluated(
  command, run_flag, trained, tmp_path, monkeypatch
):
  def refuse(path, flags, *args, **kwargs):
    raise OSError(errno.EROFS, "Read-only file system", str(path))

  with monkeypatch.context() as patch:
    patch.setattr(atomic.os, "open", refuse)
    with pytest.raises(errors_lib.WorkdirError) as caught, workdir.claimed(str(trained)):
      pass
  message = str(caught.value)
  assert "can't be written (Read-only file system): choose another --workdir" in message
  # What it says works, and leaves the run as it is.
  flags = [word for word in message.split() if word.startswith(("--workdir=", "--config"))]
  assert len(flags) == 3
  before = everything_in(trained)
  argv = [flag.replace("ANOTHER", str(tmp_path / "other")) for flag in flags]
  done = command([*argv, "--config.job=evaluate"])
  assert done.code == 0, done.printed
  assert (tmp_path / "other" / "results" / "evaluate.json").exists()
  assert everything_in(trained) == before


# What can't be kept for want of memory or disk


def test_the_attacks_results_outlive_their_pictures(command, run_flag, run):
  argv = [run_flag, *AUTOATTACK, f"--workdir={run}"]
  done = command(argv, None, failing.out_of_memory_for_examples)
  assert done.code == 0 and "no pictures of this piece, whose results are kept" in done.printed
  result = json.loads((run / "results" / "autoattack.json").read_text())
  assert result["evaluations"][0]["complete"]
  assert not (run / "results" / "autoattack.png").exists()


FAILURES = {
  "out_of_memory_for_pictures": "out of memory (Unable to allocate 9 bytes): what was found so far",
  "full_disk_for_pictures": "No space left on device",
}


@pytest.mark.parametrize(
  ("job", "failure"),
  mostly_slow(
    [(job, failure) for job in ("autoattack", "certify", "evaluate") for failure in FAILURES],
    ("certify", "full_disk_for_pictures"),
    thorough=[("autoattack", "out_of_memory_for_pictures")],
  ),
)
def test_numbers_are_written_before_pictures(command, run_flag, copy, job, failure):
  flags = {"autoattack": AUTOATTACK, "certify": CERTIFY, "evaluate": ["--config.job=evaluate"]}[job]
  argv = [run_flag, *flags, f"--workdir={copy}"]
  refused(command(argv, None, getattr(failing, failure)), FAILURES[failure], code=1)
  name = NAME if job == "certify" else job
  result = (copy / "results" / f"{name}.json").read_text()
  assert command(argv).code == 0
  again = json.loads((copy / "results" / f"{name}.json").read_text())
  assert (copy / "results" / f"{name}.png").exists()
  del again["versions"]
  assert again.items() <= json.loads(result).items()


def test_out_of_memory_on_the_device_is_a_sentence(command, run_flag, copy):
  done = command(
    [run_flag, *CERTIFY, f"--workdir={copy}"], None, failing.out_of_memory_for_certificates
  )
  refused(done, "out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)", code=1)
  assert "more" not in done.printed.split("RESOURCE_EXHAUSTED")[1].split("\n")[1:]


def test_rows_are_counted(tmp_path):
  writer = metrics.MetricsWriter(tmp_path)
  writer.write(1, "train", {"loss": 1.0})
  assert writer.num_rows == 1
