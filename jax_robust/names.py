"""Names in the order that a reader expects: numbers in them by their value."""

import re


def natural(name: str) -> tuple:
  """A key to sort names by, so that `exit_10` comes after `exit_9`.

  >>> sorted(["exits/10", "exits/9", "clean"], key=natural)
  ['clean', 'exits/9', 'exits/10']
  """
  parts = re.split(r"(\d+)", name)
  return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts), name
