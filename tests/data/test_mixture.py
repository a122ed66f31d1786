"""The law of a batch: counts, layout, repeats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_robust.data.mixture import (
  Composition,
  check_sources,
  composition,
  original_rows,
  row_slots,
)
from jax_robust.data.sources import array_source

pytestmark = pytest.mark.fast


@st.composite
def recipes(draw):
  num_slices = draw(st.integers(1, 8))
  emulated_workers = draw(st.integers(0, 6))
  rows = draw(st.integers(max(1, emulated_workers) + 1, 80))
  share = draw(st.floats(0, 1) | st.sampled_from([0.0, 0.3, 1.0]))
  recipe = {"emulated_workers": emulated_workers, "num_slices": num_slices, "original_share": share}
  return rows * num_slices, recipe


@st.composite
def compositions(draw):
  num_original, num_generated = draw(st.integers(0, 400)), draw(st.integers(0, 400))
  num_generated += num_original == num_generated == 0
  return Composition(num_original, num_generated, -(-num_original // draw(st.integers(1, 5))))


@pytest.mark.parametrize(
  ("num_slices", "expected"),
  [(1, (308, 716, 77)), (4, (304, 720, 76)), (8, (320, 704, 80))],
)
def test_published_compositions(num_slices, expected):
  assert composition(1024, original_share=0.3, num_slices=num_slices) == expected


def test_repeats_off():
  for workers in (0, 1):
    mix = composition(1024, original_share=0.3, emulated_workers=workers)
    assert mix == (307, 717, 307)


@given(recipes())
def test_adds_up(recipe):
  batch_size, keywords = recipe
  mix = composition(batch_size, **keywords)
  assert mix.num_original + mix.num_generated == mix.batch_size == batch_size
  if keywords["original_share"] in (0, 1):
    assert mix.num_original == keywords["original_share"] * batch_size


@given(recipes())
def test_never_empty(recipe):
  batch_size, keywords = recipe
  if 0 < keywords["original_share"] < 1:
    mix = composition(batch_size, **keywords)
    assert min(mix.num_original, mix.num_generated) >= keywords["num_slices"]


@given(recipes())
def test_repeats_exact(recipe):
  batch_size, keywords = recipe
  mix = composition(batch_size, **keywords)
  shown = np.bincount(row_slots(mix)[original_rows(mix)], minlength=mix.num_distinct)
  workers = max(1, keywords["emulated_workers"])
  if keywords["original_share"] == 1:
    assert shown.min() >= 1 and shown.max() <= workers
  else:
    assert (shown == workers).all()


@given(compositions(), st.data())
def test_even_share(mix, data):
  first = data.draw(st.integers(0, mix.batch_size))
  last = data.draw(st.integers(first, mix.batch_size))
  held = original_rows(mix)[first:last].sum()
  assert abs(held - (last - first) * mix.num_original / mix.batch_size) < 1


@given(compositions())
def test_row_slots(mix):
  original, slots = original_rows(mix), row_slots(mix)
  assert original.sum() == mix.num_original
  np.testing.assert_array_equal(slots[~original], np.arange(mix.num_generated))
  j = np.arange(mix.num_original)
  np.testing.assert_array_equal(slots[original], j % max(1, mix.num_distinct))


@pytest.mark.parametrize(
  ("batch_size", "keywords", "words"),
  [
    (10, {"original_share": 1.1}, "original_share=1.1"),
    (10, {"original_share": float("nan")}, "original_share=nan"),
    (0, {"original_share": 0.5}, "batch_size=0"),
    (10, {"original_share": 0.5, "num_slices": 3}, "num_slices=3"),
    (10, {"original_share": 0.5, "num_slices": 0}, "num_slices=0"),
    (10, {"original_share": 0.5, "emulated_workers": -1}, "emulated_workers=-1"),
    (8, {"original_share": 0.5, "num_slices": 2}, "least 5 rows a slice"),
    (1, {"original_share": 0.5, "emulated_workers": 0}, "least 2 rows a slice"),
  ],
)
def test_composition_refuses(batch_size, keywords, words):
  with pytest.raises(ValueError, match=words):
    composition(batch_size, **keywords)


def test_check_sources():
  small = array_source(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, int), num_classes=2)
  large = array_source(np.zeros((3, 5, 5, 1), np.uint8), np.zeros(3, int), num_classes=2)
  classes = array_source(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, int), num_classes=3)
  mix = Composition(2, 2, 2)
  check_sources(mix, small, small)
  check_sources(Composition(2, 0, 2), small, None)
  check_sources(Composition(0, 2, 0), None, small)
  for original, generated, words in (
    (None, small, "original=None"),
    (small, None, "generated=None"),
    (small, large, r"image_shape=\(5, 5, 1\)"),
    (small, classes, "num_classes=3"),
  ):
    with pytest.raises(ValueError, match=words):
      check_sources(mix, original, generated)
