"""Pseudo-random permutations of `range(n)`, computed for any position alone, without memory."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_MAX = 2**31 - 1


def permute(positions, num: int, *, seed: int | Sequence[int], epoch=0):
  """Returns where a pseudo-random permutation of `range(num)` sends each position.

  A Feistel network permutes `range(2**k)`, the smallest power of two that holds `num`; a value that
  falls outside `range(num)` is sent through the network again until it falls inside ("cycle
  walking"), which keeps the map a bijection and takes fewer than two rounds of the network on
  average. All arithmetic is on 32-bit unsigned integers, so that NumPy and JAX, in and out of
  `jit`, agree exactly.

  Guarantees:
    `exact`: for every `num`, seed and epoch, `range(num)` is mapped onto `range(num)`.
    `backends_agree`: NumPy arrays and JAX arrays give the same values.

  Args:
    positions: integers [...] in `[0, num)`; a NumPy array, or a JAX array (traced or not).
    num: size of the set, from 1 to 2**31 - 1.
    seed: an integer, or several that together name one stream, such as `(seed, stream, shard)`.
    epoch: number of the pass over the set, each with an order of its own; a scalar or [...].

  Returns:
    Integers [...] in `[0, num)`: int64 for NumPy, int32 for JAX.

  Raises:
    ValueError: `num` is out of range.

  >>> permute(np.arange(6), 6, seed=0, epoch=0).tolist()
  [4, 0, 3, 1, 2, 5]

  Reference: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.
  """
  if not 1 <= num <= _MAX:
    raise ValueError(f"num={num}: expected the size of a set, from 1 to 2**31 - 1")
  xp = jnp if isinstance(positions, jax.Array) or isinstance(epoch, jax.Array) else np
  positions, epoch = xp.asarray(positions), xp.asarray(epoch)
  flat = positions.reshape(-1).astype(np.uint32)
  bits = max(2, (num - 1).bit_length())
  # Halves of a few bits mix slowly: 24 rounds make all orders of 5 to 7 elements equally likely.
  num_rounds = 8 if bits >= 12 else 24
  # One-dimensional at least: NumPy warns when scalars wrap around, not when arrays do.
  keys = _round_keys(seed, epoch.reshape(-1).astype(np.uint32), num_rounds)
  walk = _walk_jax if xp is jnp else _walk_numpy
  out = walk(flat, keys, bits, np.uint32(num))
  return out.reshape(positions.shape).astype(np.int32 if xp is jnp else np.int64)


def locate(step: int, count: int, num: int) -> tuple[int, int]:
  """Returns the (pass, position) at which step `step` enters a stream read `count` at a time."""
  return divmod(int(step) * count, num)


def draw(first_pass, offset, *, count: int, num: int, seed: int | Sequence[int]):
  """Returns `count` indices of the endless stream of permuted passes over `range(num)`.

  Every pass shows each index once, in an order of its own. The place in the stream comes as data,
  from `locate`, so that nothing overflows inside `jit`: the pass that holds the first index, and
  its offset in that pass. Integers and dtypes are as those of `permute`.

  >>> draw(*locate(step=1, count=4, num=6), count=4, num=6, seed=0).tolist()[:2]  # ends pass 0
  [2, 5]
  """
  on_device = isinstance(first_pass, jax.Array) or isinstance(offset, jax.Array)
  xp = jnp if on_device else np
  if not on_device:
    first_pass, offset = first_pass % 2**32, offset % 2**32
  place = xp.arange(count, dtype=np.uint32) + xp.asarray(offset, dtype=np.uint32)
  epoch = place // np.uint32(num) + xp.asarray(first_pass, dtype=np.uint32)
  return permute(place % np.uint32(num), num, seed=seed, epoch=epoch)


def _mix(x):
  """Scrambles uint32 (a bijection: the finaliser of MurmurHash3)."""
  x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
  return x ^ (x >> np.uint32(16))


def _round_keys(seed, epoch, num_rounds):
  """Hashes seed and epoch into one uint32 key a round, [epochs] each, by two 32-bit lanes."""
  words = [seed] if isinstance(seed, int | np.integer) else list(seed)
  words = [
    part for word in words for part in (int(word) & 0xFFFFFFFF, int(word) >> 32 & 0xFFFFFFFF)
  ]
  lanes = [np.array([0x243F6A88], np.uint32), np.array([0xB7E15162], np.uint32)]
  for word in [*(np.array([word], np.uint32) for word in words), epoch]:
    lanes = [_mix(lane * np.uint32(5) + _mix(word + lane)) for lane in lanes]
  return [
    _mix(lanes[i % 2] + np.uint32((i + 1) * 0x9E3779B9 & 0xFFFFFFFF)) for i in range(num_rounds)
  ]


def _network(x, keys, bits):
  """Permutes `range(2**bits)` by hashing its halves, which may differ by a bit, into each other."""
  low = bits // 2
  masks = np.uint32(2**low - 1), np.uint32(2 ** (bits - low) - 1)
  left, right = x & masks[0], x >> np.uint32(low)
  for i, key in enumerate(keys):
    if i % 2:
      left = left ^ (_mix(right ^ key) & masks[0])
    else:
      right = right ^ (_mix(left ^ key) & masks[1])
  return left | (right << np.uint32(low))


def _walk_numpy(x, keys, bits, num):
  """Sends all values through the network, and those that fall outside again until none is left."""
  todo = np.arange(x.size)
  while todo.size:
    some = [np.broadcast_to(key, x.shape)[todo] for key in keys]
    x[todo] = _network(x[todo], some, bits)
    todo = todo[x[todo] >= num]
  return x


def _walk_jax(x, keys, bits, num):
  """As `_walk_numpy`, on the whole array at a time."""

  def body(carry):
    x, todo = carry
    x = jnp.where(todo, _network(x, keys, bits), x)
    return x, x >= num

  return jax.lax.while_loop(lambda carry: carry[1].any(), body, (x, jnp.full(x.shape, True)))[0]
