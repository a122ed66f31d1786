"""Arrays of other programs that can't be weights are refused by name when they are converted."""

import io
import os
import zipfile

import jax
import numpy as np
import pytest

from jax_robust.models import convert

pytestmark = pytest.mark.fast

VARIABLES = {
  "params": {
    "fc": {
      "kernel": jax.ShapeDtypeStruct((2, 3), np.float32),
      "bias": jax.ShapeDtypeStruct((3,), np.float32),
    }
  }
}


@pytest.mark.parametrize(
  ("bias", "message"),
  [
    (np.array([np.nan, 0, 1], np.float32), "value: fc.bias holds NaN or infinity, in 1 of its 3"),
    (np.array([0, -np.inf, np.inf]), "value: fc.bias holds NaN or infinity, in 2 of its 3"),
    (np.arange(3), "value: fc.bias has dtype int64: expected floating-point weights"),
    (np.ones(3, bool), "value: fc.bias has dtype bool"),
    (np.ones(3, np.uint8), "value: fc.bias has dtype uint8"),
  ],
)
def test_what_is_no_weight_is_refused(bias, message):
  arrays = {"fc.weight": np.ones((3, 2), np.float16), "fc.bias": bias}
  with pytest.raises(ValueError, match="do not fit the model") as caught:
    convert.from_torch(arrays, VARIABLES, names={})
  assert message in str(caught.value) and "fc.weight" not in str(caught.value)


def test_floats_of_any_width_are_taken():
  for dtype in (np.float16, np.float32, np.float64):
    arrays = {"fc.weight": np.ones((3, 2), dtype), "fc.bias": np.zeros(3, dtype)}
    found = convert.from_torch(arrays, VARIABLES, names={})
    assert found["params"]["fc"]["kernel"].dtype == np.float32


def npz(path, shape, size):
  """An npz whose array announces a shape, and has so many bytes of zeros behind its header."""
  stream = io.BytesIO()
  header = {"descr": "<f4", "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(stream, header)
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("params/a.npy", stream.getvalue() + bytes(size))


BAD_FILES = {
  "bomb": (lambda path: npz(path, (18 << 20,), 72 << 20), "would unpack to 75,497,.*never do"),
  "huge": (lambda path: npz(path, (10**13,), 8), "'params/a' is damaged .*10000000000000"),
  "cut": (lambda path: npz(path, (9,), 8), "'params/a' is an array of pickled|is damaged"),
  "pipe": (os.mkfifo, "is no file"),
  "folder": (os.mkdir, "is no file"),
}


@pytest.mark.parametrize("make, message", BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_are_none_or_bombs_are_refused(tmp_path, make, message):
  make(tmp_path / "weights.npz")
  with pytest.raises(ValueError, match=message):
    convert.load_arrays(tmp_path / "weights.npz")


def test_a_damaged_archive_is_a_sentence(tmp_path):
  path = tmp_path / "weights.npz"
  np.savez(path, **{"params/a": np.zeros(500, np.float32)})
  content = bytearray(path.read_bytes())
  content[1000] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match="'params/a' is damaged .Bad CRC"):
    convert.load_arrays(path)
