"""What a certification log claims is held to its header, to its votes, and to sense."""

import gzip
import json
import random
import time

import numpy as np
import pytest
from damage import damaged
from rows import mostly_slow

from jax_robust import smoothing
from jax_robust.smoothing import claims
from jax_robust.smoothing import log as logs

SETTINGS = {"sigma": 0.5, "n": 1000, "alpha": 0.001}
HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


def make_header(label, **changes):
  """As the certification job writes it."""
  count = len(label)
  return {
    **SETTINGS, "num_images": count, "start": 3, "skip": 2,
    "labels_sha256": smoothing.digest_labels(np.asarray(label)), **changes,
  }  # fmt: skip


def make_log(count=8, **changes):
  """A log of rows that their header agrees with."""
  rng = np.random.default_rng(0)
  label = rng.integers(0, 10, count)
  predict = np.where(rng.random(count) < 0.2, -1, label)
  votes = rng.integers(600, 1001, count)
  radius = smoothing.radius(smoothing.lower_bound(votes, 1000, alpha=0.001), sigma=0.5)
  radius = np.where(predict < 0, 0.0, radius)
  idx = 4 + 2 * np.arange(count)
  header = make_header(label, **changes)
  return logs.CertifyLog(idx, label, predict, radius, predict == label, 0.0 * radius, "", header)


def write(path, log):
  """Writes a log without looking at what it claims."""
  lines = [f"# {json.dumps(dict(log.header))}\n", HEAD]
  for idx, label, predict, radius, correct, _ in zip(*map(np.ndarray.tolist, log[:6]), strict=True):
    lines.append(f"{idx}\t{label}\t{predict}\t{radius!r}\t{int(correct)}\t0:00:01\n")
  path.write_text("".join(lines))
  return path


def with_radius(radius, **header):
  """A log whose third radius is another."""
  log = make_log(**header)
  return log._replace(radius=np.where(np.arange(8) == 2, radius, log.radius))


def with_rows(rows):
  """A log without some of its rows."""
  log = make_log()
  return logs.CertifyLog(*(column[rows] for column in log[:6]), log.name, log.header)


REFUSED = {
  "radius 5": (with_radius(5.0), "image 8 has radius=5, which is above 1.23"),
  "radius just too large": (with_radius(1.24), "image 8 has radius=1.24, which is above 1.23"),
  "radius of another sigma": (
    make_log(sigma=0.1), "which is above 0.24.*largest that its sigma, n and alpha allow"
  ),
  "radius of fewer draws": (make_log(n=12), r"which is above 0.\d+, the largest that its sigma"),
  "radius 1e300": (with_radius(1e300), "has radius=1e\\+300, which is above"),
  "radius 1e300, no settings": (
    with_radius(1e300, sigma=None, n=None, alpha=None), "has radius=1e\\+300, which is above 10000"
  ),
  "radius above all of a sigma": (
    with_radius(5.0, n=None), "has radius=5, which is above 4, the largest that is possible"
  ),
  "fewer rows": (with_rows(slice(0, 7)), "there are 7 rows, its header says num_images=8"),
  "a row missing": (with_rows([0, 1, 2, 4, 5, 6, 7]), "there are 7 rows"),
  "more rows": (make_log()._replace(header=make_header([1] * 7)), "there are 8 rows"),
  "other images": (make_log(start=9), "image 4 stands where its header says 10"),
  "other step": (make_log(skip=1, start=4), "image 6 stands where its header says 5"),
  "other labels": (make_log(labels_sha256="0" * 64), "its labels are not those of its header's"),
  "classes": (make_log(num_classes=5), r"a class is \d, its header says num_classes=5"),
  "sigma is text": (make_log(sigma="x" * 1000), r"header says sigma='xx.{54,58}: expected a"),
  "sigma is a list": (make_log(sigma=[0.5]), r"its header says sigma=\[0.5\]: expected a number"),
  "sigma is negative": (make_log(sigma=-1.0), "sigma=-1.0: expected the standard deviation"),
  "sigma is NaN": (make_log(sigma=float("nan")), "sigma=nan: expected the standard deviation"),
  "n is 0": (make_log(n=0), "n=0: expected a whole number"),
  "n is huge": (make_log(n=10**400), "its header|too large|OverflowError|n="),
  "alpha is 0": (make_log(alpha=0.0), "alpha=0.0: expected a probability"),
  "num_images is text": (make_log(num_images="8"), "its header says num_images='8'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_its_header_is_refused(tmp_path, case):
  log, message = REFUSED[case]
  path = write(tmp_path / "log.tsv", log)
  with pytest.raises(logs.LogError, match=message) as caught:
    smoothing.read_log(path)
  assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_what_agrees_with_its_header_is_read(tmp_path):
  log = make_log()
  found = smoothing.read_log(write(tmp_path / "log.tsv", log))
  np.testing.assert_array_equal(found.radius, log.radius)
  # Some of the images are no longer those that the header speaks of.
  some = smoothing.select_images(found, [4, 8])
  smoothing.write_log(tmp_path / "some.tsv", some)
  assert smoothing.read_log(tmp_path / "some.tsv").header == SETTINGS


@pytest.mark.parametrize(
  ("name", "radius", "is_refused"),
  [
    ("mnist_sigma0.25.tsv", 5.0, True), ("mnist_sigma0.25.tsv", 1.9, False),
    ("noise_0.50.tsv", 4.1, True), ("noise_0.50.tsv", 3.9, False), ("log.tsv", 300.0, False),
    ("certify_mlp_sigma1/certify.tsv", 9.0, True), ("log.tsv", 1.1e4, True),
  ],
)  # fmt: skip
def test_a_log_without_settings_is_held_to_the_sigma_of_its_name(
  tmp_path, name, radius, is_refused
):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_text(f"{HEAD}0\t1\t1\t{radius}\t1\t1.0\n")
  if not is_refused:
    assert smoothing.read_log(path).radius.tolist() == [radius]
    return
  with pytest.raises(logs.LogError, match="which is above .* as far as its settings are known"):
    smoothing.read_log(path)


def test_rows_in_memory_are_held_to_their_settings(tmp_path):
  with pytest.raises(ValueError, match="image 3 has radius=5, which is above 1.23"):
    smoothing.make_log([3], [1], [1], [5.0], header=SETTINGS)
  log = make_log(num_images=9)
  with pytest.raises(ValueError, match="there are 8 rows, its header says num_images=9"):
    smoothing.write_log(tmp_path / "log", log)
  assert not list(tmp_path.iterdir())


ABSURD = {
  "a million columns": ("\t".join(f"c{i}" for i in range(10**6)) + "\n", "unknown columns in all"),
  "a column of a million letters": ("x" * 10**6 + "\n", "no column 'idx'"),
  "a million fields": (HEAD + "\t".join(["1"] * 10**6) + "\n", "1000000 fields"),
  "a radius of a million digits": (f"{HEAD}0\t1\t1\t{'1' * 10**6}\t1\t0\n", "1000000 characters"),
  "a radius of a million digits and an x": (f"{HEAD}0\t1\t1\t{'1' * 10**6}x\t1\t0\n", "characters"),
  "an idx of a million digits": (f"{HEAD}{'1' * 10**6}\t1\t1\t0\t1\t0\n", "1000000 characters"),
  "a time of many days": (f"{HEAD}0\t1\t1\t0\t1\t{'9' * 50} days, 0:00:00\n", "time='999"),
  "a time of 1e300": (f"{HEAD}0\t1\t1\t0\t1\t1e300\n", "time='1e300'"),
  "a header without end": ("# " + '{"a":' * 10**5 + "\n" + HEAD, "the header is no JSON"),
  "a damaged header": ('# {"sigma": 0.5\n' + HEAD + "0\t1\t1\t0\t1\t0\n", "the header is no JSON"),
  "a million comments": ("#\n" * 10**6, "no table"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_the_absurd_is_refused_soon_and_shortly(tmp_path, case):
  text, message = ABSURD[case]
  (tmp_path / "log").write_text(text)
  began = time.process_time()
  with pytest.raises(logs.LogError, match=message) as caught:
    smoothing.read_log(tmp_path / "log")
  assert time.process_time() - began < 10 and len(str(caught.value)) < 1000


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(logs, "_MOST_BYTES", 1 << 22)
  (tmp_path / "log").write_bytes(gzip.compress(b"#" * (1 << 23)))
  with pytest.raises(logs.LogError, match="no log: it unzips to more than 4,194,304 bytes"):
    smoothing.read_log(tmp_path / "log")


def test_tables_of_large_radii_stay_small():
  table = smoothing.markdown_table({"a": smoothing.make_log([0], [1], [1], [9999.0])})
  assert len(table) < 5000 and "r=100 |" in table


@pytest.mark.parametrize("form", mostly_slow(["plain", "gzip", "members"], "plain", "members"))
def test_reading_is_linear(tmp_path, form):
  """Ten times the rows, and at most twenty-five times the time: a square would take a hundred."""

  def seconds(count):
    lines = [f"{i}\t1\t1\t0.5\t1\t0:00:01\n".encode() for i in range(count)]
    content = HEAD.encode() + b"".join(lines)
    if form == "gzip":
      content = gzip.compress(content)
    if form == "members":
      content = b"".join(map(gzip.compress, [HEAD.encode(), *lines]))
    (tmp_path / "log").write_bytes(content)
    times = []
    for _ in range(2):
      began = time.process_time()
      assert len(smoothing.read_log(tmp_path / "log").idx) == count
      times.append(time.process_time() - began)
    return min(times)

  assert seconds(10_000) < 25 * seconds(1000)


def make_rows(count=6):
  """Rows of a certification, as its pieces keep them."""
  rng = np.random.default_rng(1)
  selection = rng.multinomial(100, [0.1, 0.9], count)
  estimation = rng.multinomial(1000, [0.1, 0.9], count)
  estimation[0] = [495, 505]
  found = smoothing.certify(selection, estimation, sigma=0.5, alpha=0.001)
  return [
    {
      "id": 4 + 2 * i, "label": 1, "predict": int(found.label[i]), "selected": 1,
      "radius": float(found.radius[i]), "lower_bound": float(found.lower_bound[i]),
      "count": int(found.count[i]), "total": 1000,
    }
    for i in range(count)
  ]  # fmt: skip


CHANGED_ROWS = {
  "radius": ({"radius": 5.0}, r"id 8: radius=5, where its votes give 0.\d+"),
  "radius by little": ({"radius": 0.55}, "id 8: radius=0.55"),
  "radius nan": ({"radius": float("nan")}, "id 8: radius=nan"),
  "bound": ({"lower_bound": 0.99}, "id 8: lower_bound=0.99, where its votes give"),
  "bound nan": ({"lower_bound": float("nan")}, "id 8: lower_bound=nan"),
  "bound and radius": (
    {"lower_bound": 0.99, "radius": float(smoothing.radius(0.99, sigma=0.5))}, "id 8: lower_bound"
  ),
  "more votes": ({"count": 1000}, "id 8: lower_bound="),
  "more votes than draws": ({"count": 1001}, "id 8: count=1001"),
  "negative votes": ({"count": -1}, "id 8: count=-1"),
  "more draws": ({"total": 100_000, "count": 99_999}, "id 8: count=99999, .* 100000"),
  "class": ({"predict": 0}, "id 8: predict=0, where its votes give 1"),
  "abstention": ({"predict": -1}, "id 8: predict=-1, where its votes give 1"),
  "selected": ({"selected": 0}, "id 8: predict=1, where its votes give 0"),
  "label": ({"label": -3}, "id 8: predict="),
  "text": ({"radius": "5.0"}, "a row has not what a certificate has"),
  "votes as text": ({"count": "7"}, "a row has not what a certificate has"),
  "votes as floats": ({"count": 900.5}, "a row has not what a certificate has"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED_ROWS)
def test_a_changed_certificate_is_refused(case):
  change, message = CHANGED_ROWS[case]
  rows = make_rows()
  smoothing.check_certificates(rows, **SETTINGS)
  rows[2] |= change
  with pytest.raises(ValueError, match=message):
    smoothing.check_certificates(rows, **SETTINGS)


@pytest.mark.parametrize("key", ["radius", "count", "total", "predict", "lower_bound", "label"])
def test_a_row_that_lacks_something_is_refused(key):
  rows = make_rows()
  del rows[1][key]
  with pytest.raises(ValueError, match=f"a row has not what a certificate has.*{key}"):
    smoothing.check_certificates(rows, **SETTINGS)


def test_decisions_and_intervals_are_recomputed_too():
  row = {"id": 0, "label": 1, "predict": 1, "radius": 0.5, "certified": [True, True, False],
         "num_draws": [100, 100, 200], "total": 200}  # fmt: skip
  radii = (0.0, 0.5, 1.0)
  smoothing.check_certificates([row], **SETTINGS, radii=radii)
  for change in ({"radius": 1.0}, {"predict": -1}, {"certified": [True, False, False]}):
    with pytest.raises(ValueError, match="id 0: (radius|predict)"):
      smoothing.check_certificates([row | change], **SETTINGS, radii=radii)
  with pytest.raises(ValueError, match="expected .1, 2."):
    smoothing.check_certificates([row], **SETTINGS, radii=radii[:2])
  low = float(claims.special.ndtr(smoothing.lower_sequence(900, 1000, alpha=0.001)))
  row = {"id": 0, "label": 1, "predict": 1, "radius": float(smoothing.radius(low, sigma=0.5)),
         "lower_bound": low, "count": 900, "total": 1000, "upper_radius": 1.0}  # fmt: skip
  smoothing.check_certificates([row], **SETTINGS)
  for change in ({"radius": 5.0}, {"lower_bound": 0.9999}, {"lower_bound": 0.6}, {"predict": -1}):
    with pytest.raises(ValueError, match="id 0: (radius|predict|lower_bound)"):
      smoothing.check_certificates([row | change], **SETTINGS)


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["certify.tsv", "certify.tsv.gz"])
def test_damage_to_a_log_of_ours_is_never_read_as_another_log(tmp_path, name, count):
  draw, path = random.Random(count), tmp_path / name
  header = make_log().header | {smoothing.ROWS_SHA256: ""}
  smoothing.write_log(path, make_log()._replace(header=header))
  whole, content, num_refused = smoothing.read_log(path), path.read_bytes(), 0
  for _ in range(count):
    path.write_bytes(damaged(draw, content, longest=30))
    began = time.monotonic()
    try:
      found = smoothing.read_log(path)
    except logs.LogError as error:
      num_refused += 1
      assert len(str(error)) < 2000
    else:
      for ours, theirs in zip(whole[:6], found[:6], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert time.monotonic() - began < 10
  assert num_refused > 0.8 * count


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_a_published_log_that_is_damaged_is_refused_or_makes_sense(tmp_path, count):
  draw, path = random.Random(count), tmp_path / "log_sigma0.5"
  smoothing.write_log(path, make_log(40)._replace(header={}), digits=3)
  content = path.read_bytes()
  for _ in range(count):
    path.write_bytes(damaged(draw, content, longest=30))
    try:
      log = smoothing.read_log(path)
    except logs.LogError as error:
      assert len(str(error)) < 2000
    else:
      assert (
        log.radius.max(initial=0.0) <= 4.01 and len(smoothing.markdown_table({"a": log})) < 9000
      )
