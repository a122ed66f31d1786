"""Paths as people type them: `~`, commas, `=`, `:`, dots and digits, empty ones."""

import json
import os
import pathlib

import pytest

from jax_robust import config as config_lib
from jax_robust import jobs, main, overrides, paths, presets
from jax_robust.errors import ConfigError, WorkdirError
from jax_robust.jobs import analyse, merge
from jax_robust.runs import nets, workdir

pytestmark = pytest.mark.fast

TINY = pathlib.Path(__file__).parent / "tiny_config.py"

NAMES = ("a,b", "sigma=0.5", "13:20", "mix_0.25", "1e3", "007", "none", "[1]", "a (2)", "ünï", "*x")
"""What folders are called."""


@pytest.fixture
def home(tmp_path, monkeypatch):
  """A home of one's own, in which the test runs."""
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  return tmp_path


def printed(capsys, *argv):
  """The config that a command line amounts to."""
  assert main.main([f"--config={TINY}", *argv, "--print-config"]) == 0, capsys.readouterr().err
  return config_lib.flatten(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("key", paths.KEYS)
def test_a_tilde_is_a_home_in_every_path(home, capsys, key):
  config = presets.complete(config_lib.load(str(TINY)))
  config.generate = {"method": "convert", "path": "~/x/y", "num_shards": 2}
  config.study = {"name": "other_images", "images": "~/x/y"}
  place, _, name = key.rpartition(".")
  with config.ignore_type():
    (config[place] if place else config)[name] = "~/x/y"
  assert config_lib.flatten(config_lib.with_paths(config))[key] == str(home / "x/y")
  if place not in ("generate", "study"):  # blocks that this config lacks
    assert printed(capsys, f"--config.{key}=~/x/y")[key] == str(home / "x/y")


@pytest.mark.parametrize("key", paths.LISTS)
def test_a_tilde_is_a_home_in_every_list(home, key):
  config = presets.complete(config_lib.load(str(TINY)))
  config.generate = {"method": "convert", "path": "", "num_shards": 2}
  config = presets.complete(config)
  overrides.override(config, key, "~/x,A=~/y,~/z/*")
  found = config_lib.flatten(config_lib.with_paths(config))[key]
  assert found == (str(home / "x"), f"A={home / 'y'}", str(home / "z/*"))


@pytest.mark.parametrize("key", ["data.labels", "early_exit.thresholds", "smoothing.weights"])
@pytest.mark.parametrize("path", ["a" * 256, "é" * 128, "x/" * 2048, "\ud800" * 90])
def test_a_path_that_no_file_has_is_refused(capsys, key, path):
  assert main.main([f"--config={TINY}", f"--config.{key}={path}", "--print-config"]) == 2
  assert "no file has so long a name" in capsys.readouterr().err


def test_a_tilde_in_a_run_of_a_comparison_and_in_a_stored_config(home):
  config = config_lib.load("quickstart")
  config.runs.trades = {"generated": {"path": "~/shards"}, "data_dir": "~/tfds"}
  found = config_lib.flatten(presets.complete(config))
  assert found["runs.trades.generated.path"] == str(home / "shards")
  assert found["runs.trades.data_dir"] == str(home / "tfds")
  assert config.runs.trades.data_dir == "~/tfds", "the caller's config stays"


def test_what_has_no_tilde_stays_as_it_is():
  config = presets.complete(config_lib.load(str(TINY)))
  assert config_lib.with_paths(config) is config


def test_a_home_that_is_not_there_stays_text():
  assert paths.expand("~no_such_user_at_all/x") == "~no_such_user_at_all/x"
  assert paths.expand("a/~/b") == "a/~/b"


def test_the_workdir_and_the_config_may_begin_with_a_tilde(home, monkeypatch):
  (home / "my").mkdir()
  (home / "my" / "config.py").write_text(TINY.read_text())
  seen = []
  monkeypatch.setattr(jobs, "run", lambda config, folder: seen.append((config, folder)) or {})
  monkeypatch.setattr(main, "_set_up_logging", lambda: None)
  assert main.main(["--config=~/my/config.py:steps=4", "--workdir=~/run"]) == 0
  assert seen[0][1] == str(home / "run") and seen[0][0].total_steps == 4
  with workdir.claimed("~/run") as folder:
    assert folder == home / "run"


def test_a_path_with_a_zero_byte_is_refused():
  with pytest.raises(ConfigError, match="a path holds no zero byte"):
    paths.workdir("a\0b")
  config = presets.base()
  config.data.labels = "a\0b"
  with pytest.raises(ConfigError, match=r"data\.labels='a\\x00b': expected a path"):
    config_lib.with_paths(config)


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_workdir_is_refused(home, capsys, text):
  assert main.main([f"--config={TINY}", f"--workdir={text}"]) == 2
  assert "--workdir= is empty: where should the run live?" in capsys.readouterr().err
  with pytest.raises(ConfigError, match="is empty"):
    jobs.run(presets.complete(config_lib.load(str(TINY))), text)
  assert not list(home.iterdir())


@pytest.mark.parametrize("key", ["data_dir", "init_from", "generated.path"])
def test_a_path_of_blanks_is_refused(capsys, key):
  assert main.main([f"--config={TINY}", "--workdir=x", f"--config.{key}= "]) == 2
  assert f"{key}=' ': expected a path" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_made_is_a_sentence(tmp_path):
  (tmp_path / "file").write_text("")
  for bad in (tmp_path / ("x" * 5000), tmp_path / "file" / "run", tmp_path / "file"):
    with pytest.raises(WorkdirError, match=r"can't be made") as caught, workdir.claimed(str(bad)):
      pass
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_found_whatever_its_folder_is_called(home, name):
  place = home / f"RUN:{name}"
  place.mkdir()
  (place / "config.json").write_text(json.dumps(config_lib.to_data(presets.base())))
  (place / "my.py").write_text(TINY.read_text())
  assert config_lib.load(f"RUN:{name}/config.json").job == "train"
  assert config_lib.load(f"RUN:{name}/my.py:steps=3,save=1").total_steps == 3
  with pytest.raises(ConfigError, match=r"takes no argument, but 'smoke' is given"):
    config_lib.load(f"RUN:{name}/config.json:smoke")
  with pytest.raises(ConfigError) as caught:
    config_lib.load(f"RUN:{name}/confg.json")
  assert f"did you mean {f'RUN:{name}/config.json'!r}?" in str(caught.value)
  with pytest.raises(ConfigError, match=r"is a folder: did you mean '.*config.json'"):
    config_lib.load(str(place))


@pytest.mark.parametrize("reference", ["quickstart.json", "quickstart.old", "quickstart.py.bak"])
def test_a_name_with_another_ending_is_no_config_of_ours(home, reference):
  with pytest.raises(ConfigError, match=f"no config file '{reference}'"):
    config_lib.load(reference)


@pytest.mark.parametrize("name", NAMES)
def test_an_item_of_a_list_may_be_called_anything(home, name):
  for folder in (name, "other"):
    (home / "runs" / folder).mkdir(parents=True)
  absolute = str(home / "runs" / name)
  for text, items in (
    (f"runs/{name}", (f"runs/{name}",)),
    (f"runs/{name},runs/other", (f"runs/{name}", "runs/other")),
    (f"runs/other, {absolute} ,", ("runs/other", absolute)),
    (f"(runs/{name},)", (f"runs/{name}",)),
    (f"'runs/other',A=runs/{name}", ("runs/other", f"A=runs/{name}")),
    (f"runs/{name}/*,runs/other", (f"runs/{name}/*", "runs/other")),
  ):
    (home / "runs" / name / "piece").mkdir(exist_ok=True)
    assert paths.split_list(text) == items, text
  assert [str(each) for each in paths.matches(f"runs/{name}")] == [f"runs/{name}"]


def test_items_that_look_like_numbers_stay_text(home, capsys):
  flags = ["--config.smoothing.weights=0.25,1e3,007,none,true", "--config.smoothing.logs=1/4"]
  found = printed(capsys, *flags)
  assert found["smoothing.weights"] == ["0.25", "1e3", "007", "none", "true"]
  assert found["smoothing.logs"] == ["1/4"]


@pytest.mark.parametrize("text", [",", "a,,b", ",a", "a, ,b"])
def test_an_empty_item_is_refused(home, capsys, text):
  assert main.main([f"--config={TINY}", "--workdir=x", f"--config.smoothing.weights={text}"]) == 2
  assert "smoothing.weights: an item of the list is empty" in capsys.readouterr().err
  assert not (home / "x").exists()


def test_an_argument_of_a_config_may_be_a_path_with_a_comma(home):
  (home / "a,b").mkdir()
  config = config_lib.load("cifar10_smoothing:generated=a,b,share=0.25,smoke")
  assert config.batch.original_share == 0.25
  config = config_lib.load("cifar10_smoothing:generated=a,b,share=0.25")
  assert config.generated.path == "a,b"


@pytest.mark.parametrize(
  "item, parts",
  [
    ("A=x/sigma=0.5.tsv", ("A", "x/sigma=0.5.tsv")),
    ("x/y", ("", "x/y")),
    ("A=", ("A", "")),
    ("here=1/log", ("", "here=1/log")),
    ("A=here=1/log", ("A", "here=1/log")),
  ],
)
def test_a_name_ends_at_the_first_equals_sign_unless_the_whole_is_there(home, item, parts):
  (home / "here=1").mkdir()
  (home / "here=1" / "log").write_text("")
  assert paths.split_name(item) == parts


def test_logs_are_called_by_their_folder_dots_and_all(home):
  places = {}
  for name in ("mix_0.25", "mix_0.5", "a=b", "a,b"):
    (home / name).mkdir()
    places[name] = home / name / "certify.tsv"
    places[name].write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
  items = paths.split_list(",".join(f"{name}/certify.tsv" for name in places))
  assert analyse._find(items).keys() == places.keys()
  assert analyse._find(["x=y=mix_0.5/certify.tsv"][:0] or ["B=a=b/certify.tsv"]).keys() == {"B"}
  os.chdir(home / "mix_0.25")
  assert analyse._find(["certify.tsv"]).keys() == {"mix_0.25"}
  with pytest.raises(ConfigError, match=r"no log 'certify.tvs': did you mean 'certify.tsv'\?"):
    analyse._find(["certify.tvs"])


def test_pieces_are_found_whatever_their_folder_is_called(home):
  config = presets.complete(config_lib.load(str(TINY)))
  for name in NAMES:
    (home / "P" / name).mkdir(parents=True)
  text = ",".join(f"P/{name}" for name in NAMES)
  overrides.override(config, "smoothing.pieces", text)
  assert [each.name for each in merge.find_workdirs(config)[1]] == list(NAMES)


def test_runs_keep_the_dots_of_their_names(home, monkeypatch):
  monkeypatch.setattr(nets, "_open", lambda config, path, source, name: (name, config.init_from))
  config = presets.complete(config_lib.load(str(TINY)))
  for name in ("mix_0.25", "mix_0.5"):
    (home / name).mkdir()
    (home / f"{name}.safetensors").write_bytes(b"")
  for references in (
    ["mix_0.25/", str(home / "mix_0.5")],
    ["mix_0.25.safetensors", "mix_0.5.safetensors"],
  ):
    opened = list(nets.each_net(config, home, None, references))
    assert [name for name, _ in opened] == ["mix_0.25", "mix_0.5"]
  (named,) = nets.each_net(config, home, None, ["ours=mix_0.25.safetensors"])
  assert named == ("ours", "mix_0.25.safetensors")
  (missing,) = nets.each_net(config, home, None, ["runs/sigma=0.5"])
  assert missing == ("sigma=0.5", "runs/sigma=0.5")
  os.chdir(home / "mix_0.25")
  assert next(nets.each_net(config, home, None, ["."]))[0] == "mix_0.25"
  with pytest.raises(ConfigError, match="2 of them are called 'mix_0.5'"):
    list(nets.each_net(config, home, None, ["../mix_0.5", "../mix_0.5.safetensors"]))
