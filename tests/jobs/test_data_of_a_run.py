"""What a run notes of its data: the names of its classes, and which images it holds out."""

import csv
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rows import mostly_thorough

from jax_robust import jobs, smoothing
from jax_robust.data import convert
from jax_robust.errors import ConfigError, RobustnessWarning, UserError, WorkdirError
from jax_robust.jobs import evaluate
from jax_robust.runs import build, evaluation, identity, nets, row_log, weights, workdir

NAMES = ("ant", "bee", "cat", "dog")


def _save(root, counts, size=12):
  """A folder for each class of `{name: number of images}`, each class of a colour of its own."""
  for name, count in counts.items():
    (root / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
      value = 60 * (NAMES.index(name.lower()) if name.lower() in NAMES else 3) + index
      Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(root / name / f"{index}.png")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
  """A data set whose test split has a class in another case, and lacks one."""
  root = tmp_path_factory.mktemp("pets")
  _save(root / "train", dict.fromkeys(NAMES, 10))
  _save(root / "test", {"Dog": 3, "ant": 3, "cat": 3})
  return root


def _config(tiny, pets, **changes):
  changes = {
    "data__name": str(pets),
    "batch__original_share": 1.0,
    "generated__path": "",
    **changes,
  }
  return tiny("steps=2,save=2,evaluate=2,log=2", **changes)


@pytest.fixture(scope="module")
def run(tiny, pets, tmp_path_factory):
  """A trained run on the data set."""
  folder = tmp_path_factory.mktemp("runs") / "run"
  jobs.run(_config(tiny, pets), folder)
  return folder


def test_a_run_notes_its_classes_and_what_it_holds_out(run):
  noted = json.loads((run / "data.json").read_text())
  assert noted["num_classes"] == 4 and noted["class_names"] == list(NAMES)
  held = noted["heldout"]
  assert held["draw"] == "class" and held["seed"] == 0 and len(held["ids"]) == 8
  assert np.bincount(np.array(held["ids"]) // 10).tolist() == [2, 2, 2, 2]
  assert json.loads((run / "config.json").read_text())["data"]["draw"] == "class"


def test_another_split_is_trained_on(tiny, tmp_path):
  images = np.zeros((9, 4, 4, 1), np.uint8)
  for split, count in (("few", 6), ("test", 9)):
    np.savez(tmp_path / f"{split}.npz", image=images[:count], label=np.arange(count) % 3)
  name = {"data__name": f"{tmp_path}/", "data__train_split": "few", "data__num_heldout": 3}
  data = build.data(tiny(**name, batch__original_share=1.0, generated__path=""))
  counts = [each.num_examples for each in (data.train, data.heldout, data.test)]
  assert counts == [3, 3, 9]


def test_some_classes_are_trained_tested_and_generated_alike(tiny, pets):
  config = _config(
    tiny, pets, data__classes=("dog", "ant"), batch__original_share=0.5,
    generated__path=str(pets / "train"),
  )  # fmt: skip
  data = build.data(config)
  for source in (data.train, data.heldout, data.test, data.generated):
    assert (source.num_classes, source.class_names) == (2, ("dog", "ant"))
    images, labels = source.read(np.arange(source.num_examples))
    assert [NAMES[k] for k in images[:, 0, 0, 0] // 60] == [("dog", "ant")[k] for k in labels]
  config.data.classes = ("dog", "aunt")
  with pytest.raises(ConfigError, match=r"config.data.classes: 'aunt' is no class .*'ant'"):
    build.data(config)


def test_the_test_split_is_matched_by_name(tiny, pets, run, capsys):
  config = _config(tiny, pets, job="evaluate", evaluation__num_examples=6)
  result = jobs.run(config, run)
  assert result["class_names"] == list(NAMES) and result["num_examples"] == 6
  counts = {name: row["count"] for name, row in result["per_class"].items()}
  assert counts == {"ant": 2, "cat": 2, "dog": 2} and not any(result["num_lost"].values())
  for measure in ("clean", "robust"):
    rows = result["per_class"].values()
    assert sum(row[measure] * row["count"] for row in rows) == pytest.approx(6 * result[measure])
  printed = capsys.readouterr().out
  assert all(f"| {name} " in printed for name in ("class", "ant", "cat", "dog"))
  source = build.load_test(config, weights.classes_of_model(config, run))
  images, labels = source.read(np.arange(9))
  assert (images[:, 0, 0, 0] // 60).tolist() == labels.tolist()
  drawn = json.loads((run / "results" / "test_images.json").read_text())
  assert drawn["of"] == 9 and len(drawn["ids"]) == 6
  assert np.bincount(labels[drawn["ids"]], minlength=4).tolist() == [2, 0, 2, 2]


def test_lost_points_are_counted_and_warned_of(tiny, pets, run, monkeypatch):
  """A net that has no finite logits but for images of whole bytes, which attacked ones are not."""
  config = _config(tiny, pets, job="evaluate", evaluation__eps_list=(0.2,))
  make = nets.make_logits_fn

  def make_broken(*args, **options):
    logits_fn = make(*args, **options)

    def broken(x):
      bytes_ = 255 * x.reshape(len(x), -1)
      attacked = jnp.any(jnp.abs(bytes_ - jnp.round(bytes_)) > 0.01, axis=1, keepdims=True)
      return jnp.where(attacked, jnp.nan, logits_fn(x))

    return broken

  monkeypatch.setattr(evaluation.nets, "make_logits_fn", make_broken)
  with pytest.warns(RobustnessWarning) as warned:
    found = evaluate.measure(config, nets.open_model(config, run)).result
  count = found["num_examples"]
  said = f"config.evals.robust: logits were NaN or infinite at {count} points that were tried, of"
  assert [str(each.message).startswith(said) for each in warned] == [True, True]
  assert found["num_lost"] == {"clean": 0, "robust": count} and found["robust"] == found["clean"]
  assert sum(row["count"] for row in found["per_class"].values()) == count
  assert {*found["per_class"]} == {"ant", "cat", "dog"}


def test_predictions_name_the_class(tiny, pets, run, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(run, folder)
  config = _config(
    tiny, pets, job="predict", smoothing__images=str(pets / "test" / "ant"), smoothing__sigma=0.1,
    smoothing__n=100, smoothing__batch_size=50, smoothing__alpha=0.01,
  )  # fmt: skip
  jobs.run(config, folder)
  with (folder / "results" / "predict.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert rows and any(row["class"] for row in rows)
  for row in rows:
    label = int(row["predict"])
    assert row["class"] == ("" if label < 0 else NAMES[label])


def test_a_class_that_cannot_be_matched_is_refused_with_both_lists(tiny, pets, run, tmp_path):
  _save(tmp_path / "set" / "train", dict.fromkeys(NAMES, 10))
  _save(tmp_path / "set" / "test", {"ant": 2, "cow": 2})
  for job in ("train", "evaluate"):
    config = _config(tiny, tmp_path / "set", job=job, init_from=str(run))
    with pytest.raises(
      ConfigError, match=r"\['cow'\] cannot.*\['ant', 'cow'\], here \['ant', 'bee'"
    ):
      jobs.run(config, tmp_path / job)


def test_weights_of_other_classes_are_refused(tiny, pets, run, tmp_path):
  _save(tmp_path / "set" / "train", dict.fromkeys(("ant", "bee", "cat", "owl"), 10))
  shutil.copytree(tmp_path / "set" / "train", tmp_path / "set" / "test")
  config = _config(tiny, tmp_path / "set", init_from=str(run))
  with pytest.raises(ConfigError, match=r"'cat', 'dog'\], the images .*'cat', 'owl'\]"):
    jobs.run(config, tmp_path / "run")


def test_generated_images_are_matched_by_name(tiny, pets, tmp_path):
  for name, counts, labels in (
    ("names", {"Cat": 2, "ant": 2}, [0, 2]),
    ("numbers", {"0": 2, "3": 2}, [0, 3]),
  ):
    _save(tmp_path / name, counts)
    config = _config(tiny, pets, batch__original_share=0.5, generated__path=str(tmp_path / name))
    generated = build.data(config).generated
    assert generated.num_classes == 4
    assert sorted(set(generated.read(np.arange(4))[1].tolist())) == labels
  _save(tmp_path / "seeds", {"000000": 2})
  config = _config(tiny, pets, batch__original_share=0.5, generated__path=str(tmp_path / "seeds"))
  with pytest.raises(ConfigError, match=r"\['000000'\].*here \['ant'"):
    build.data(config)


@pytest.mark.parametrize("backend", mostly_thorough(["tfdata", "resident"], "resident"))
def test_so_many_generated_images_of_another_size(tiny, pets, tmp_path, backend):
  _save(tmp_path / "made", dict.fromkeys(NAMES, 6), size=16)
  convert.make_shards(tmp_path / "made", tmp_path / "shards", num_shards=3)
  for path in (tmp_path / "made", tmp_path / "shards"):
    config = _config(
      tiny, pets, batch__original_share=0.5, generated__path=str(path), batch__backend=backend,
      generated__num_examples=8, data__image_size=12,
    )  # fmt: skip
    generated = build.data(config).generated
    images, labels = generated.read(np.arange(8))
    assert images.shape == (8, 12, 12, 3) and np.bincount(labels).tolist() == [2, 2, 2, 2]
    np.testing.assert_array_equal(images[:, 0, 0, 0] // 60, labels)
    jobs.run(config, tmp_path / f"run_{path.name}")
  config.generated.num_examples = 25
  with pytest.raises(ConfigError, match="generated: num_examples=25, where .* has 24 images"):
    build.data(config)


def _make_old(folder):
  """Turns a workdir into what an earlier version left."""
  config = json.loads((folder / "config.json").read_text())
  del config["data"]["draw"]
  (folder / "config.json").write_text(json.dumps(config))
  noted = json.loads((folder / "data.json").read_text())
  old = {key: noted[key] for key in ("num_classes", "image_shape")}
  (folder / "data.json").write_text(json.dumps(old))


def test_a_run_of_an_earlier_version_keeps_its_split(tiny, pets, run, tmp_path):
  old = tmp_path / "old"
  jobs.run(_config(tiny, pets, data__draw="first"), old)
  _make_old(old)
  config = workdir.keep_draw(old, _config(tiny, pets))
  sets = build.data(config)
  assert config.data.draw == "first"
  np.testing.assert_array_equal(sets.heldout.read(np.arange(8))[1], 0)
  jobs.run(_config(tiny, pets), old)  # the same command resumes
  assert json.loads((old / "config.json").read_text())["data"]["draw"] == "first"
  # What it was not to note then, it notes now; its classes are known by their folders.
  assert json.loads((old / "data.json").read_text())["class_names"] == list(NAMES)
  _make_old(old)
  assert weights.classes_of_model(config, old).names == NAMES
  with pytest.raises(WorkdirError, match=r"data\.draw: 'first' there, 'class' here"):
    jobs.run(_config(tiny, pets, data__draw="class"), old)


def test_classes_or_held_out_images_that_changed_are_refused(tiny, pets, run, tmp_path):
  moved = tmp_path / "run"
  shutil.copytree(run, moved)
  noted = json.loads((moved / "data.json").read_text())
  for changes in ({"class_names": list(NAMES[::-1])}, {"heldout": {**noted["heldout"], "seed": 1}}):
    (moved / "data.json").write_text(json.dumps({**noted, **changes}))
    with pytest.raises(UserError, match=r"data\.json says .*use the data set of the run"):
      jobs.run(_config(tiny, pets), moved)


def test_numbers_of_an_earlier_version_are_refused(tiny, run, tmp_path):
  """Folders 1 to 4 once made five classes; now they make four."""
  _save(tmp_path / "set" / "train", {str(n): 10 for n in range(1, 5)})
  old = tmp_path / "old"
  shutil.copytree(run, old)
  _make_old(old)
  noted = json.loads((old / "data.json").read_text())
  (old / "data.json").write_text(json.dumps({**noted, "num_classes": 5}))
  config = _config(tiny, tmp_path / "set")
  with pytest.raises(ConfigError, match="trained on 5 classes by an earlier version.*now has 4"):
    weights.classes_of_model(config, old)


CERTIFY = {"job": "certify", "smoothing__sigma": 0.25, "smoothing__n": 100}


def _certified(tiny, pets, run, folder, **changes):
  """The result of a certification in a copy of the run."""
  if not folder.exists():
    shutil.copytree(run, folder)
  (result,) = jobs.run(_config(tiny, pets, **CERTIFY, **changes), folder).values()
  return result, folder / "results" / "certify_mlp_sigma0.25"


def test_some_images_of_a_folder_are_certified_by_class(tiny, pets, run, tmp_path):
  result, place = _certified(tiny, pets, run, tmp_path / "run", smoothing__max=3)
  log = smoothing.read_log(place / "certify.tsv", num_examples=3)
  assert sorted(log.label.tolist()) == [0, 2, 3]  # ant, cat and dog: there is no bee
  assert result["draw"] == "class" and result["num_classes"] == 4
  before = (place / "piece-0-of-1.jsonl").read_bytes()
  _certified(tiny, pets, run, tmp_path / "run", smoothing__max=3)
  assert (place / "piece-0-of-1.jsonl").read_bytes() == before


def _of_an_earlier_version(path):
  """Makes the log of today what one was that noted neither draw nor classes; half of its rows."""
  first, *rows = path.read_text().splitlines()
  header = json.loads(first)
  for key in ("draw", "draw_seed", "num_classes"):
    header["identity"].pop(key, None)
  kept = [json.loads(row) for row in rows[: len(rows) // 2]]
  path.write_text(json.dumps(header) + "\n")
  for row in kept:
    row.pop("sha256")
    row_log.append(path, row, work=identity.digest(header["identity"]))
  return [row["id"] for row in kept]


@pytest.mark.thorough
def test_what_was_begun_with_the_first_images_goes_on_so(tiny, pets, run, tmp_path, monkeypatch):
  with monkeypatch.context() as patch, pytest.warns(RobustnessWarning) as warned:
    patch.setattr(build, "draw_rule", lambda config: "first")
    _, place = _certified(tiny, pets, run, tmp_path / "run", smoothing__max=4)
  assert any("its first 4 samples are of 2 of its 3 classes" in str(w.message) for w in warned)
  whole = smoothing.read_log(place / "certify.tsv")
  assert whole.idx.tolist() == [0, 1, 2, 3]
  assert _of_an_earlier_version(place / "piece-0-of-1.jsonl") == [0, 1]
  with pytest.warns(RobustnessWarning, match="sorted by class"):
    _certified(tiny, pets, run, tmp_path / "run", smoothing__max=4)
  again = smoothing.read_log(place / "certify.tsv")
  assert again.idx.tolist() == [0, 1, 2, 3] and again.radius.tolist() == whole.radius.tolist()


def test_a_row_of_a_class_that_there_is_not_is_refused(tiny, pets, run, tmp_path):
  _, place = _certified(tiny, pets, run, tmp_path / "run", smoothing__max=3)
  path = place / "piece-0-of-1.jsonl"
  first, *rows = path.read_text().splitlines()
  path.write_text(first + "\n")
  for row in map(json.loads, rows):
    row.pop("sha256")
    work = identity.digest(json.loads(first)["identity"])
    row_log.append(path, {**row, "label": 4}, work=work)
  with pytest.raises(WorkdirError, match=r"line 2, id .*label=4.*num_classes=4.*delete that line"):
    _certified(tiny, pets, run, tmp_path / "run", smoothing__max=3)
