"""Damage to the bytes of a file, as disks and careless hands do it."""

WAYS = ("flip", "flip", "lose", "double", "overwrite", "cut")


def damaged(draw, content, *, longest=60, ways=WAYS):
  """Bytes with a bit flipped, a stretch lost, doubled or overwritten, or the end cut off.

  Args:
    draw: a `random.Random`.
    content: the bytes.
    longest: bound of a stretch's length.
    ways: what may happen; what stands twice happens twice as often.
  """
  place, length = draw.randrange(len(content)), draw.randrange(1, longest)
  how = draw.choice(list(ways))
  if how == "flip":
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
  if how == "cut":
    return content[:place]
  middle = {
    "lose": b"",
    "double": 2 * content[place : place + length],
    "overwrite": draw.randbytes(length),
    "deep": b"[" * 10**5,
  }[how]
  return content[:place] + middle + content[place + length :]
