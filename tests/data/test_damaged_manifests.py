"""The manifest of shards, damaged in every way: refused with a sentence, or nothing has changed."""

import random
import time

import pytest
from damage import WAYS, damaged
from shard_samples import META, SOURCE

from jax_robust.data.shard_writer import write_shards
from jax_robust.data.shards import open_shards
from jax_robust.errors import DataFileError


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_damage_is_refused_or_changes_nothing(tmp_path, count):
  whole = write_shards(tmp_path / "set", SOURCE, num_shards=2, **META).manifest
  path, draw, num_refused = tmp_path / "set" / "manifest.json", random.Random(count), 0
  content = path.read_bytes()
  for _ in range(count):
    path.write_bytes(damaged(draw, content, ways=(*WAYS, "deep")))
    began = time.monotonic()
    try:
      assert open_shards(tmp_path / "set").manifest == whole
    except DataFileError as error:
      num_refused += 1
      assert str(path.parent) in str(error) and len(str(error)) < 3000
    assert time.monotonic() - began < 10
  assert num_refused > 0.8 * count
