"""Certification logs: what is read, what is refused and why, and what comes back from writing."""

import errno
import gzip
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_robust.smoothing import log as logs
from jax_robust.smoothing.comparison import select_images

HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
ROWS = (
  "0\t7\t7\t0.953\t1\t0:00:16.602175\n",
  "20\t2\t3\t1.21e-05\t0\t0:00:00.300000\n",
  "40\t1\t-1\t0.0\t0\t1:02:03\n",
)
TEXT = HEAD + "".join(ROWS)


def read(tmp_path, text, num_examples=None):
  path = tmp_path / "log.tsv"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return logs.read_log(path, num_examples)


def refused(tmp_path, text, line, reason, num_examples=None):
  with pytest.raises(logs.LogError) as error:
    read(tmp_path, text, num_examples)
  assert str(error.value).startswith(f"{tmp_path / 'log.tsv'}, line {line}: ")
  assert reason in str(error.value)


def equal(first, second, *, digits=15):
  """Whether two logs hold the same rows, radii and times as exact as they are printed."""
  columns = ("idx", "label", "predict", "correct")
  same = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in columns)
  less = first.radius - second.radius
  assert (less >= 0).all() and (less <= 10.0 ** (1 - digits) * first.radius).all()
  np.testing.assert_allclose(first.seconds, second.seconds, atol=1e-6)
  return same and dict(first.header) == dict(second.header)


def test_a_log_is_read(tmp_path):
  log = read(tmp_path, TEXT)
  assert log.idx.tolist() == [0, 20, 40] and log.label.tolist() == [7, 2, 1]
  assert log.predict.tolist() == [7, 3, -1] and log.correct.tolist() == [True, False, False]
  assert log.radius.tolist() == [0.953, 1.21e-05, 0.0] and log.radius.dtype == np.float64
  assert log.seconds.tolist() == [16.602175, 0.3, 3723.0]
  assert log.name == "log.tsv" and dict(log.header) == {}


@pytest.mark.parametrize(
  ("time", "seconds"),
  [
    ("15.4", 15.4),
    ("3", 3.0),
    ("2e-1", 0.2),
    ("0:00:01", 1.0),
    ("12:34:56.5", 45296.5),
    ("1 day, 0:00:01", 86401.0),
    ("2 days, 3:00:00.25", 183600.25),
    ("-1 day, 23:59:59", -1.0),  # a clock that was set back
  ],
)
def test_times_are_read_in_every_published_form(tmp_path, time, seconds):
  log = read(tmp_path, f"{HEAD}0\t1\t1\t0.5\t1\t{time}\n")
  assert log.seconds.tolist() == [seconds]


@pytest.mark.parametrize(
  ("cell", "radius"),
  [
    ("0.0000", 0.0), ("2.93e-05", 2.93e-05), ("1E0", 1.0), ("1", 1.0), ("1.", 1.0), (".5", 0.5),
    ("3.9085", 3.9085), ("1.9057312345678901234", 1.9057312345678901), ("-0.0", 0.0),
  ],
)  # fmt: skip
def test_radii_are_read_in_every_published_form(tmp_path, cell, radius):
  log = read(tmp_path, f"{HEAD}0\t1\t1\t{cell}\t1\t1.0\n")
  assert log.radius.tolist() == [radius]


def test_line_ends_encodings_and_column_orders_are_read(tmp_path):
  plain = read(tmp_path, TEXT)
  assert equal(plain, read(tmp_path, TEXT.replace("\n", "\r\n")))
  assert equal(plain, read(tmp_path, b"\xef\xbb\xbf" + TEXT.encode()))
  assert equal(plain, read(tmp_path, gzip.compress(TEXT.encode())))
  two = gzip.compress(TEXT[:60].encode()) + gzip.compress(TEXT[60:].encode())
  assert equal(plain, read(tmp_path, two))
  turned = "".join("\t".join(line.split("\t")[::-1]) + "\n" for line in TEXT.splitlines())
  assert equal(plain, read(tmp_path, turned))


def test_comments_on_top_are_the_header(tmp_path):
  text = '# a remark\n# {"sigma": 0.5}\n#{"n": 1000}\n# [1]\n' + TEXT
  assert read(tmp_path, text).header == {"sigma": 0.5, "n": 1000}
  refused(tmp_path, TEXT + "# {}\n", 5, "1 fields '# {}'")


@pytest.mark.parametrize(
  ("text", "line", "reason"),
  [
    ("", 1, "no table"),
    ("# {}\n", 2, "no table"),
    (HEAD, 2, "ends after 0 rows: expected at least one"),
    (HEAD[:-1], 1, "the file is cut"),
    (HEAD.replace("\tradius", ""), 1, "no column 'radius'"),
    (HEAD.replace("time", "time\tp_a"), 1, "unknown column 'p_a'"),
    (HEAD.replace("time", "time\tidx"), 1, "column 'idx' twice"),
    (HEAD.replace("\t", " "), 1, "between tabs"),
    (ROWS[0], 1, "no column 'idx'"),
    (TEXT[:-1], 4, "the file is cut"),
    (TEXT + "41\t1\t1\n", 5, "3 fields"),
    (TEXT + "\n", 5, "1 fields ''"),
    (TEXT.replace("\n20", "\n\n20"), 3, "1 fields ''"),
    (TEXT.replace("\t3\t", "\t3\t9\t"), 3, "7 fields"),
    (TEXT.replace("0.953", "nan"), 2, "radius='nan'"),
    (TEXT.replace("0.953", "inf"), 2, "radius='inf'"),
    (TEXT.replace("0.953", "1e999"), 2, "radius=inf"),
    (TEXT.replace("0.953", "-0.1"), 2, "radius=-0.1"),
    (TEXT.replace("0.953", "1_0"), 2, "radius='1_0'"),
    (TEXT.replace("0.953", "0,953"), 2, "radius='0,953'"),
    (TEXT.replace("\n40", "\n20"), 4, "idx=20 again"),
    (TEXT.replace("\n40", "\n19"), 4, "idx=19 after 20"),
    (TEXT.replace("\n0", "\n-1"), 2, "idx=-1"),
    (TEXT.replace("\n20", "\n20.0"), 3, "idx='20.0': expected an integer"),
    (TEXT.replace("\n20", "\n2_0"), 3, "idx='2_0'"),
    (TEXT.replace("\n20", "\n٢"), 3, "idx='٢'"),
    (TEXT.replace("\n20", "\n" + "9" * 30), 3, "expected an integer"),
    (TEXT.replace("0\t7\t7", "0\t7\t-2"), 2, "predict=-2"),
    (TEXT.replace("0\t7\t7", "0\t-1\t7"), 2, "label=-1"),
    (TEXT.replace("0.953\t1", "0.953\t0"), 2, "correct=0 contradicts label=7, predict=7"),
    (TEXT.replace("1.21e-05\t0", "1.21e-05\t1"), 3, "correct=1 contradicts label=2, predict=3"),
    (TEXT.replace("0.953\t1", "0.953\t2"), 2, "correct=2 contradicts"),
    (TEXT.replace("0.953\t1", "0.953\tTrue"), 2, "correct='True'"),
    (TEXT.replace("-1\t0.0", "-1\t0.5"), 4, "radius=0.5, though the classifier abstains"),
    (TEXT.replace("1:02:03", "soon"), 4, "time='soon'"),
    (TEXT.replace("1:02:03", "1:62:03"), 4, "time='1:62:03'"),
    (TEXT.replace("1:02:03", "nan"), 4, "time='nan'"),
    (TEXT.encode().replace(b"1:02", b"\xff"), 4, "no text"),
  ],
)
def test_what_is_refused(tmp_path, text, line, reason):
  refused(tmp_path, text, line, reason)


def test_damage_is_refused(tmp_path):
  """A cut at any byte, but for one between rows; there, the number of rows tells."""
  text = ('# {"n": 10}\n' + TEXT).encode()
  ends = {len(text) - len("".join(ROWS[i:])) for i in (1, 2, 3)}
  for size in range(len(text)):
    if size in ends:
      read(tmp_path, text[:size])
    else:
      with pytest.raises(logs.LogError):
        read(tmp_path, text[:size])
    with pytest.raises(logs.LogError):
      read(tmp_path, text[:size], num_examples=3)
  zipped = gzip.compress(text)
  for size in range(1, len(zipped)):
    with pytest.raises(logs.LogError):
      read(tmp_path, zipped[:size])
  whole, refusals = read(tmp_path, text), 0
  for place in range(len(zipped)):
    try:
      log = read(tmp_path, zipped[:place] + bytes([zipped[place] ^ 16]) + zipped[place + 1 :])
    except logs.LogError:
      refusals += 1
    else:  # bits that say nothing of the content, such as gzip's time of day
      assert equal(log, whole)
  assert refusals > 0.9 * len(zipped)


@given(data=st.data())
def test_nonsense_is_refused_or_read(tmp_path_factory, data):
  """Whatever is changed, the answer is a log of sound rows or a LogError."""
  place = data.draw(st.integers(0, len(TEXT) - 1))
  length = data.draw(st.integers(0, 5))
  new = data.draw(st.text(st.sampled_from("0123456789.-+e\t\n:, #nai_x"), max_size=5))
  try:
    log = read(tmp_path_factory.getbasetemp(), TEXT[:place] + new + TEXT[place + length :])
  except logs.LogError:
    return
  assert np.isfinite(log.radius).all() and (log.radius >= 0).all() and (np.diff(log.idx) > 0).all()
  assert (log.correct == (log.predict == log.label)).all()


def test_a_short_log_is_refused(tmp_path, oracles):
  assert len(read(tmp_path, TEXT, num_examples=3).idx) == 3
  refused(tmp_path, TEXT, 5, "ends after 3 rows: expected 4", num_examples=4)
  path = oracles / "certify_logs/cifar10_smoothadv_incomplete_9_rows.gz"
  assert len(logs.read_log(path).idx) == 9
  with pytest.raises(logs.LogError, match="line 11: the log ends after 9 rows: expected 10000"):
    logs.read_log(path, num_examples=10_000)


def test_a_log_survives_writing(tmp_path):
  rng = np.random.default_rng(0)
  count = 500
  predict = rng.integers(-1, 10, count)
  log = logs.make_log(
    np.cumsum(rng.integers(1, 5, count)),
    rng.integers(0, 10, count),
    predict,
    np.where(predict < 0, 0.0, 4.0 ** rng.uniform(-12, 1, count)),
    86400 * rng.uniform(0, 2, count) ** 9,
    header={"sigma": 0.5, "n": 1000, "data": {"name": "mnist"}},
  )
  for name, digits in (("a.tsv", 15), ("b.gz", 15), ("c.tsv", 3)):
    path, again = tmp_path / name, tmp_path / f"again_{name}"
    logs.write_log(path, log, digits=digits)
    back = logs.read_log(path, num_examples=count)
    assert equal(log, back, digits=digits)
    logs.write_log(again, back, digits=digits)
    assert again.read_bytes() == path.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
    ["a.tsv", "b.gz", "c.tsv", "again_a.tsv", "again_b.gz", "again_c.tsv"]
  )


def test_published_logs_are_written_as_they_were(tmp_path, oracles, published_log):
  names = ("mnist_smoothmix_onestep_sigma1.00", "cifar10_smoothmix_onestep_sigma0.5")
  for name in names:
    content = gzip.decompress((oracles / f"certify_logs/{name}.gz").read_bytes())
    for digits in (3, 15):
      logs.write_log(tmp_path / "log", published_log(name), digits=digits)
      assert (tmp_path / "log").read_bytes() == content


def written(tmp_path, log, **options):
  """The text of a log."""
  logs.write_log(tmp_path / "log", log, **options)
  return (tmp_path / "log").read_text()


def test_a_row_is_rounded_down(tmp_path):
  log = logs.make_log([0, 1, 3], [1, 1, 1], [1, 1, -1], [0.5 * 3.8114636, 0.3, 0.0], [1, 0.5, 16.6])
  assert written(tmp_path, log, digits=3) == HEAD + (
    "0\t1\t1\t1.9\t1\t0:00:01\n1\t1\t1\t0.3\t1\t0:00:00.500000\n3\t1\t-1\t0.0\t0\t0:00:16.600000\n"
  )
  log = log._replace(radius=np.array([0.1 * 3, 0.1, 0.0]))  # 0.30000000000000004
  assert "\t0.3\t" in written(tmp_path, log)


def test_the_header_is_a_comment(tmp_path):
  log = logs.make_log([0], [1], [1], [0.5], header={"n": 10, "alpha": 0.001})
  head, rest = written(tmp_path, log).split("\n", 1)
  assert head == '# {"alpha": 0.001, "n": 10}' and rest.startswith(HEAD)
  assert written(tmp_path, log._replace(header={})).startswith(HEAD)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "log.tsv"
  log = read(tmp_path, TEXT)
  old = path.read_bytes()

  def fsync(fd):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", fsync)
  with pytest.raises(OSError, match="No space left"):
    logs.write_log(path, log)
  assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ("columns", "reason"),
  [
    (([0, 1], [1, 1], [1], [0.1, 0.1]), "columns of [1, 2] rows"),
    (([0.0], [1], [1], [0.1]), "idx has dtype float64: expected integers"),
    (([0, 0], [1, 1], [1, 1], [0.1, 0.1]), "image 0: idx=0 again"),
    (([0], [1], [1], [float("nan")]), "image 0: radius=nan"),
    (([0], [1], [-1], [0.1]), "image 0: radius=0.1, though"),
  ],
)
def test_rows_in_memory_are_held_to_the_same(columns, reason):
  with pytest.raises((ValueError, TypeError)) as error:  # TypeError: of the types' checker
    logs.make_log(*columns)
  assert reason in str(error.value) or error.type is not ValueError


def test_rows_that_cannot_be_read_are_not_written(tmp_path):
  log = logs.make_log([0, 1], [1, 1], [1, 1], [0.1, 0.2])
  with pytest.raises(ValueError, match="image 1: radius=nan"):
    logs.write_log(tmp_path / "log", log._replace(radius=np.array([0.1, np.nan])))
  assert not list(tmp_path.iterdir())


def test_images_are_selected(tmp_path):
  log = read(tmp_path, TEXT)
  some = select_images(log, [0, 40])
  assert some.idx.tolist() == [0, 40] and some.predict.tolist() == [7, -1]
  assert some.seconds.tolist() == [16.602175, 3723.0] and some.name == log.name
  with pytest.raises(ValueError, match="log.tsv has no image 10 \\(2 missing\\)"):
    select_images(log, [0, 10, 30])
  with pytest.raises(ValueError, match="idx=0 after 40"):
    select_images(log, [40, 0])
