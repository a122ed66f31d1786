"""Arrays of other programs that can't be weights are refused by name when they are converted."""

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
