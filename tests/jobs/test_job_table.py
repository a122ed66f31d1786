"""A new job is one row of one table: it is listed, checked, resumed, shared, merged."""

import json
import signal

import pytest
import toy_job

from jax_robust import config as config_lib
from jax_robust import job_table, jobs, presets
from jax_robust.jobs import merge
from jax_robust.runs import pieces, weights


def test_the_rows_name_functions_that_say_what_they_do():
  for name, job in job_table.JOBS.items():
    function = job_table.load(job.function)
    assert function.__name__ == name and len(function.__doc__.split()) > 4
    if job.results:
      assert job_table.load(job.results).__name__ == "write_results"
      assert job.block


def test_a_config_has_the_blocks_of_the_table(monkeypatch):
  monkeypatch.setattr(job_table, "JOBS", dict(job_table.JOBS))
  toy_job.register()
  config = presets.base()
  assert config.toy.to_dict() == {"num": 30, "base": 2, "shard": "0/1", "pieces": ()}
  assert "generate" not in config
  config.generate = {"method": "gaussian"}
  assert presets.complete(config).generate.shard == "0/1"


def test_a_key_that_only_other_jobs_read_is_said(capsys):
  for job in job_table.JOBS.values():
    assert set(job.unread) <= set(job.defaults)
  config = presets.base()
  config.job, config.smoothing.images = "certify", "photos"
  jobs._say_unread(config, job_table.JOBS["certify"])
  assert "not read by the job 'certify': smoothing.images" in capsys.readouterr().err
  jobs._say_unread(config, job_table.JOBS["predict"])
  assert not capsys.readouterr().err


@pytest.fixture
def start(command, run_flag):
  """`start(folder, *flags, end=None)`: the command line of a program that knows the toy job."""

  def start(folder, *flags, job="toy", end=None):
    flags = [f"--config.{flag}" for flag in (f"job={job}", *flags)]
    return command([run_flag, *flags, f"--workdir={folder}"], end, prepare=toy_job.register)

  return start


def sum_in(folder):
  """What the toy job found."""
  return json.loads((folder / "results" / "toy.json").read_text())["sum"]


EXPECTED = sum(key**3 for key in range(30))


def test_a_job_of_one_row_resumes_shares_and_merges(start, tmp_path):
  whole = tmp_path / "whole"
  for count in (4, 9):
    assert start(whole, "toy.base=3", end=(signal.SIGKILL, "rows", count, 0)).code == -9
  done = start(whole, "toy.base=3")
  assert done.code == 0 and "13 of 30 images are there already" in done.printed
  assert "toy: 30/30" in done.printed and sum_in(whole) == EXPECTED

  for i in range(2):
    done = start(tmp_path / f"piece-{i}", "toy.base=3", f"toy.shard={i}/2")
    assert done.code == 0 and "toy: 15 of 30 are here" in done.printed
  done = start(tmp_path / "all", f"toy.pieces={tmp_path}/piece-*", job="merge")
  assert done.code == 0, done.printed
  assert sum_in(tmp_path / "all") == EXPECTED
  assert len(pieces.find([tmp_path / "all" / "results" / "toy"]).owners) == 30

  # What may change is the row's word; what may not is a mistake, as is a key of no block.
  assert start(whole, "toy.base=3", "toy.shard=0/2").code == 0
  done = start(whole, "toy.base=2")
  assert done.code == 2 and "toy.base: 3 there, 2 here" in done.printed
  done = start(tmp_path / "new", "toy.bse=2")
  assert done.code == 2 and "did you mean 'toy.base'" in done.printed


def test_a_merge_of_two_blocks_or_of_nothing_is_a_mistake(command, run_flag, tmp_path):
  def merge(*flags):
    flags = [f"--config.{flag}" for flag in ("job=merge", *flags)]
    return command([run_flag, *flags, f"--workdir={tmp_path / 'merged'}"])

  (tmp_path / "empty").mkdir()
  for flags, message in {
    (): "pieces is empty: name the workdirs",
    ("autoattack.pieces=a", "smoothing.pieces=b"): "autoattack and smoothing are both given",
    ("autoattack.pieces=/nowhere/*",): "there is no workdir '/nowhere/*'",
    (f"autoattack.pieces={tmp_path}/empty",): "there is no piece of any job",
  }.items():
    done = merge(*flags)
    assert done.code == 2 and message in done.printed, done.printed


def test_a_merge_names_classes_as_the_weights_of_the_pieces_do(tiny, tmp_path):
  """Not as those do that the net was tuned from, which the config may name."""
  names = {"piece": ["cat", "dog"], "tuned_from": ["plane", "ship"]}
  data = config_lib.to_data(presets.complete(tiny(init_from=str(tmp_path / "tuned_from"))))
  for name, class_names in names.items():
    folder = tmp_path / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(data))
    note = {"num_classes": 2, "class_names": class_names}
    (folder / "data.json").write_text(json.dumps(note))
  config = merge._with_classes_of(config_lib.from_data(data), [tmp_path / "piece"])
  assert weights.noted_names(config, tmp_path / "all") == ("cat", "dog")


def test_the_tiny_config_has_every_block():
  config = config_lib.load("quickstart")
  assert set(job_table.blocks()) <= set(config)
