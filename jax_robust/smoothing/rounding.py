"""Numbers in print, rounded down so that none promises more than was proved."""

import decimal
import math


def format_radius(value: float | int, digits: int = 3) -> str:
  """A radius as published logs print it, but rounded down to so many significant digits.

  Guarantees:
    `never_more_than_the_radius`: after it was printed and read back.

  Args:
    value: a radius, at least 0, finite.
    digits: 1 to 15.

  Returns:
    The largest such decimal that, read as a float, is at most `value`.

  Raises:
    ValueError: a value or digits out of range.

  >>> [format_radius(value) for value in (1.90573, 0.95286, 2.9359e-05, 2, 0)]
  ['1.9', '0.952', '2.93e-05', '2.0', '0.0']
  """
  if not 0 <= value < math.inf or not 1 <= digits <= 15:
    raise ValueError(f"value={value}, digits={digits}: expected 0 <= value < inf, 1 to 15 digits")
  nearest = decimal.Decimal(f"{value:.{digits - 1}e}")
  if float(nearest) > value:
    nearest = decimal.Context(prec=digits).next_minus(nearest)
  return f"{float(nearest):.{digits}}"


def round_down(value: float, decimals: int) -> str:
  """A number rounded down; what summing floats leaves far behind the decimals is ignored.

  >>> round_down(1.6929, 3), round_down(0.7 - 0.1, 3)
  ('1.692', '0.600')
  """
  return _rounded(math.floor, value, decimals)


def round_up(value: float, decimals: int) -> str:
  """A number rounded up, such as a standard error.

  >>> round_up(0.14531, 4), round_up(math.inf, 4)
  ('0.1454', 'inf')
  """
  return _rounded(math.ceil, value, decimals) if math.isfinite(value) else str(value)


def format_percent(count: int, total: int) -> str:
  """A share in percent, rounded down to one decimal in integers: 57.9 must not become 57.8.

  >>> format_percent(579, 1000), format_percent(2, 3)
  ('57.9', '66.6')
  """
  tenths = 1000 * count // total
  return f"{tenths // 10}.{tenths % 10}"


def _rounded(direction, value: float, decimals: int) -> str:
  """`math.floor` or `math.ceil` of a value, with so many decimals."""
  scale = 10**decimals
  return f"{direction(round(value * scale, 8)) / scale:.{decimals}f}"
