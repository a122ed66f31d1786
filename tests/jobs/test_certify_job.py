"""Certification jobs: rows never lost or made twice, pieces that make a whole, mistakes named."""

import json
import shutil
import signal

import earlier
import numpy as np
import pytest
from PIL import Image
from rows import mostly_slow

from jax_robust import smoothing
from jax_robust.runs import row_log

JOB = "--config.job=certify"
FLAGS = (
  "--config.smoothing.sigma=0.25", "--config.smoothing.n=400", "--config.smoothing.stop=24",
  "--config.smoothing.skip=2", "--config.smoothing.batch_size=800",
)  # fmt: skip
NAME = "certify_mlp_sigma0.25"


@pytest.fixture(scope="module")
def whole(run_flag, command, trained, tmp_path_factory):
  """The workdir of a certification that nothing disturbed: look, don't touch."""
  folder = shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "run")
  done = command([run_flag, JOB, *FLAGS, f"--workdir={folder}"])
  assert done.code == 0, done.printed
  return folder, done.printed


def rows_of(folder, name=NAME):
  """Its rows, but for the time that they took."""
  rows = row_log.read(folder / "results" / name / "piece-0-of-1.jsonl")[1]
  return {key: {**row, "seconds": None} for key, row in rows.items()}


def test_a_certification_leaves_a_log_numbers_and_a_picture(whole):
  folder, printed = whole
  result = json.loads((folder / "results" / f"{NAME}.json").read_text())
  log = smoothing.read_log(folder / "results" / NAME / "certify.tsv", num_examples=12)
  assert log.idx.tolist() == list(range(0, 24, 2))
  rows = rows_of(folder)
  radii = np.array([rows[i]["radius"] for i in log.idx])
  assert np.all(log.radius <= radii) and np.all(radii - log.radius < 0.01)  # rounded down
  average = np.mean([row["radius"] * (row["predict"] == row["label"]) for row in rows.values()])
  np.testing.assert_allclose(result["average_certified_radius"]["value"], average)
  assert result["complete"] and result["num_images"] == 12 and result["draws_per_image"] == 400
  assert result["sigma"] == 0.25 and result["trained_sigma"] is None
  assert 0 <= result["calibration_error"] <= 1
  for row in rows.values():
    assert 0 <= row["count"] <= row["total"] == 400
    bound = smoothing.lower_bound(row["count"], 400, alpha=0.001)
    assert row["lower_bound"] == bound and (row["predict"] == -1) == (bound < 0.5)
    assert row["predict"] in (row["selected"], -1)
  assert (folder / "results" / f"{NAME}.png").stat().st_size > 5_000
  assert "does not say which noise it was trained under" in printed
  assert "12/12" in printed and "ACR" in printed and "| abstain |" in printed


@pytest.mark.thorough
def test_a_killed_certification_goes_on_to_the_same_rows(whole, command, run_flag, copy):
  """Killed by -9 after some rows, three times, with a torn line left behind once."""
  argv = [run_flag, JOB, *FLAGS, f"--workdir={copy}"]
  path = copy / "results" / NAME / "piece-0-of-1.jsonl"
  counts = []
  for number in (2, 3, 4):
    done = command(argv, (signal.SIGKILL, "rows", number, 0.0))
    assert done.code == -signal.SIGKILL
    counts.append(len(row_log.read(path)[1]))
  assert counts == [2, 5, 9]
  with path.open("ab") as file:
    file.write(b'{"id": 18, "label"')
  done = command(argv)
  assert done.code == 0 and "9 of 12 images are there already" in done.printed
  assert rows_of(copy) == rows_of(whole[0])
  before = path.read_bytes()
  assert command(argv).code == 0 and path.read_bytes() == before


@pytest.mark.slow
def test_pieces_make_the_whole(whole, command, run_flag, trained, tmp_path):
  pieces = []
  for i in range(3):
    pieces.append(shutil.copytree(trained, tmp_path / f"piece-{i}"))
    flags = [f"--config.smoothing.shard={i}/3", f"--workdir={pieces[i]}"]
    flags += ["--config.smoothing.batch_size=200"] if i else []
    done = command([run_flag, JOB, *FLAGS, *flags])
    assert done.code == 0, done.printed
    assert "4 of 12 are here; job=merge puts pieces together" in done.printed
    assert not (pieces[i] / "results" / NAME / "certify.tsv").exists()
  merge = [run_flag, "--config.job=merge"]
  pattern = f"--config.smoothing.pieces={tmp_path / 'piece-*'}"
  done = command([*merge, pattern, f"--workdir={tmp_path / 'all'}"])
  assert done.code == 0, done.printed
  assert rows_of(tmp_path / "all") == rows_of(whole[0])
  theirs, ours = (
    smoothing.read_log(folder / "results" / NAME / "certify.tsv", num_examples=12)
    for folder in (whole[0], tmp_path / "all")
  )
  np.testing.assert_array_equal(theirs.radius, ours.radius)

  def refused(names, message):
    where = tmp_path / f"refused-{message[:3]}"
    pieces_flag = "--config.smoothing.pieces=" + ",".join(str(tmp_path / name) for name in names)
    done = command([*merge, f"--workdir={where}", pieces_flag])
    assert done.code == 2 and message in done.printed, done.printed

  refused(["piece-0", "piece-2"], "gap: 4 of the 12 ids")
  shutil.copytree(pieces[0], tmp_path / "twin")
  refused(["piece-0", "piece-1", "piece-2", "twin"], "overlap")
  other = shutil.copytree(trained, tmp_path / "other")
  flags = [*FLAGS, "--config.smoothing.n=300", "--config.smoothing.shard=0/3"]
  assert command([run_flag, JOB, *flags, f"--workdir={other}"]).code == 0
  refused(["other", "piece-1", "piece-2"], "n: 400 there, 300 here")
  refused(["missing-*"], "there is no workdir")


@pytest.mark.thorough
def test_several_nets_and_sigmas(command, run_flag, trained, tmp_path, whole):
  twin = shutil.copytree(trained, tmp_path / "twin")
  done = command(
    [run_flag, JOB, *FLAGS, f"--config.smoothing.weights={trained},{twin}",
     "--config.smoothing.sigma_list=0.25,0.5", f"--workdir={tmp_path / 'out'}"]
  )  # fmt: skip
  assert done.code == 0, done.printed
  names = sorted(path.name for path in (tmp_path / "out" / "results").glob("certify_*/"))
  assert names == [f"certify_{n}_sigma{s}" for n in ("run", "twin") for s in ("0.25", "0.5")]
  ours = rows_of(tmp_path / "out", "certify_twin_sigma0.25")
  assert ours == rows_of(whole[0]), "which name the net has changes nothing"
  assert (tmp_path / "out" / "results" / "certify.png").exists()


RADII = (0, 0.1, 0.2)


@pytest.mark.parametrize(
  "flag", mostly_slow(["radii=0,0.1,0.2", "tolerance=0.05"], "tolerance=0.05")
)
def test_adaptive_modes(command, run_flag, copy, flag):
  flags = [*FLAGS, "--config.smoothing.n=2000", f"--config.smoothing.{flag}"]
  done = command([run_flag, JOB, *flags, f"--workdir={copy}"])
  assert done.code == 0, done.printed
  result = json.loads((copy / "results" / f"{NAME}.json").read_text())
  assert 100 <= result["draws_per_image"] < 2000
  assert ("decisions" in result) == ("radii" in flag)
  for row in rows_of(copy).values():
    if "radii" in flag:
      assert row["certified"] == sorted(row["certified"], reverse=True)
      held = [r for r, certified in zip(RADII, row["certified"], strict=True) if certified]
      assert row["radius"] == max(held, default=0)
    else:
      assert row["radius"] <= row["upper_radius"]


MISTAKES = {
  "sigma=-1": "config.smoothing: sigma=-1.0: expected the standard deviation",
  "alpha=1.5": "config.smoothing: alpha=1.5: expected a probability",
  "n=0": "config.smoothing: n=0: expected a whole number",
  "n0=500": "config.smoothing: n0=500: expected at most n=400",
  "n=9": "n0=100: expected at most n=9",
  "skip=0": "smoothing.skip=0",
  "start=99": "leave none of the 72 images",
  "shard=3/3": "smoothing.shard='3/3': expected I/N with 0 <= I < N",
  "noise=uniform": "noise='uniform'",
  "sigma=0": "smoothing.sigma is 0, and mlp does not say which noise",
  "tolerance=-1": "config.smoothing: tolerance=-1.0: expected a finite number of at least 0",
  "sgima=1": "'smoothing.sgima'",
}


@pytest.mark.parametrize("flag", MISTAKES)
def test_mistakes_are_named(flag, command, run_flag, copy):
  done = command([run_flag, JOB, *FLAGS, f"--config.smoothing.{flag}", f"--workdir={copy}"])
  assert done.code == 2 and MISTAKES[flag] in done.printed, done.printed
  assert "Traceback" not in done.printed


@pytest.mark.thorough
def test_another_noise_than_the_trained_one_is_said(command, copy, tmp_path):
  """A run that was trained under noise brings its sigma; another one is used, and said."""
  data = json.loads((copy / "config.json").read_text())
  data["objective"] = {"name": "gaussian", "sigma": 0.5}
  (copy / "config.json").write_text(json.dumps(data))
  earlier.forget_run(copy)  # which would tell that it was not
  budget = ["--config.smoothing.n=100", "--config.smoothing.max=2"]
  argv = [f"--config={copy / 'config.json'}", JOB, *budget, f"--workdir={copy}"]
  done = command(argv)
  assert done.code == 0 and "trained under" not in done.printed, done.printed
  assert (copy / "results" / "certify_mlp_sigma0.5" / "certify.tsv").exists()
  done = command([*argv, "--config.smoothing.sigma=1"])
  assert "mlp was trained under sigma 0.5, not 1" in done.printed
  # So does a run among several nets.
  several = [f"--config.smoothing.weights={copy}", f"--workdir={tmp_path / 'several'}"]
  done = command(["--config=certify_smoothing:data=mnist,smoke", *budget, *several])
  assert done.code == 0, done.printed
  place = tmp_path / "several" / "results" / f"certify_{copy.name}_sigma0.5"
  assert (place / "certify.tsv").exists()


@pytest.fixture
def predict(command, run_flag, copy, tmp_path):
  """`predict(*flags, workdir=copy)`: starts the job on three images."""
  draw = np.random.default_rng(0)
  (tmp_path / "images" / "sub").mkdir(parents=True)
  for name in ("a.png", "b.png", "sub/c.png"):
    pixels = draw.integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / name)
  flags = ["--config.job=predict", *FLAGS, f"--config.smoothing.images={tmp_path / 'images'}"]
  return lambda *more, workdir=copy: command([run_flag, *flags, *more, f"--workdir={workdir}"])


def test_predict_says_what_it_sees_and_abstains(predict, copy, tmp_path):
  done = predict()
  assert done.code == 0, done.printed
  lines = (copy / "results" / "predict.csv").read_text().splitlines()
  assert lines[0] == "name,predict,p_value,share"
  assert [line.split(",")[0] for line in lines[1:]] == ["a.png", "b.png", "sub/c.png"]
  log = copy / "results" / "predict" / "piece-0-of-1.jsonl"
  for line, row in zip(lines[1:], row_log.read(log).rows.values(), strict=True):
    assert sum(row["votes"]) == 400
    expected = smoothing.predict(np.array(row["votes"]), alpha=0.001)
    assert row["predict"] == expected.label == int(line.split(",")[1])
    assert row["p_value"] == expected.p_value
  before = log.read_bytes()
  # An earlier version kept one log beside the folder, whose header did not say the ids.
  header, *rows = map(json.loads, before.decode().splitlines())
  del header["ids"]
  log.unlink()
  old = "".join(json.dumps(row) + "\n" for row in [header, *rows])
  (copy / "results" / "predict.jsonl").write_text(old)
  done = predict()
  assert done.code == 0 and "3 of 3 images are there already" in done.printed
  assert row_log.read(log).rows.keys() == {0, 1, 2}
  assert (copy / "results" / "predict.csv").read_text().splitlines() == lines
  other = np.full((12, 12, 3), 7, np.uint8)
  images = tmp_path / "images"
  Image.fromarray(other).save(images / "b.png")
  done = predict()
  assert done.code == 2 and "images_sha256: " in done.printed
  (images / "b.png").unlink()
  for name in ("a.png", "sub/c.png"):
    Image.fromarray(other[:8, :8]).save(images / name)
  done = predict()
  assert done.code == 2 and "images of shape [12, 12, 3], those of" in done.printed
  done = predict("--config.smoothing.images=nowhere")
  assert done.code == 2 and "there is no such folder" in done.printed


@pytest.mark.thorough
def test_shares_of_a_prediction_make_the_whole(predict, command, run_flag, trained, copy, tmp_path):
  assert predict().code == 0
  for i in range(2):
    piece = shutil.copytree(trained, tmp_path / f"piece-{i}")
    done = predict(f"--config.smoothing.shard={i}/2", workdir=piece)
    assert done.code == 0 and f"predict: {2 - i} of 3 are here" in done.printed
    assert not (piece / "results" / "predict.csv").exists()
  flag = f"--config.smoothing.pieces={tmp_path}/piece-*"
  done = command([run_flag, "--config.job=merge", flag, f"--workdir={tmp_path / 'all'}"])
  assert done.code == 0, done.printed
  tables = [(folder / "results" / "predict.csv").read_text() for folder in (copy, tmp_path / "all")]
  assert tables[0] == tables[1]


def test_logs_are_analysed(command, run_flag, whole, oracles, tmp_path):
  logs = oracles / "certify_logs"
  ours = whole[0] / "results" / NAME / "certify.tsv"
  flag = f"--config.smoothing.logs=Gaussian={logs}/mnist_gaussian_sigma1.00.gz,ours/x={ours}"
  argv = [run_flag, "--config.job=analyse", f"--workdir={tmp_path}", "--config.smoothing.sigma=1"]
  done = command([*argv, flag])
  assert done.code == 0, done.printed
  assert "Gaussian: 12 of its 10000 images are in all logs" in done.printed
  names = {path.name for path in (tmp_path / "results").iterdir()}
  assert names == {
    "analysis.md", "analysis.csv", "analysis.json", "certified_accuracy.png", "trade_off.png",
    "probabilities.png", "reliability.png",
  }  # fmt: skip
  table = (tmp_path / "results" / "analysis.md").read_text()
  assert table.count("\n") == 4 and "| Gaussian |" in table
  for logs, message in {
    "": "smoothing.logs is empty", "none.tsv": "there is no log 'none.tsv'",
    f"a={ours},a={ours}": "two logs are called 'a'",
    f"{whole[0] / 'config.json'}": "config.smoothing.logs: ",
  }.items():  # fmt: skip
    done = command([*argv, f"--config.smoothing.logs={logs}"])
    assert done.code == 2 and message in done.printed, done.printed
