"""Probabilities in place of labels: in the batches of both backends, and as targets."""

import itertools

import jax
import numpy as np
import pytest
from shard_samples import META, NUM, SOURCE, numbers

from jax_robust.data import augment, pipeline
from jax_robust.data.columns import PROBABILITIES, with_columns
from jax_robust.data.shard_writer import write_shards

PROBS = np.random.default_rng(2).dirichlet(np.ones(5), NUM).astype(np.float32)
KNOWN = with_columns(SOURCE, {PROBABILITIES: PROBS})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
  return write_shards(tmp_path_factory.mktemp("soft") / "shards", KNOWN, num_shards=3, **META)


LAW = {"batch_size": 12, "original_share": 0.5, "emulated_workers": 0, "seed": 3}


def batches_of(backend, original, generated, **changes):
  make = pipeline.make_train_batches(original, generated, backend=backend, **{**LAW, **changes})
  iterator = make(2)
  found = [jax.device_get(batch) for batch in itertools.islice(iterator, 3)]
  iterator.close()
  return found


@pytest.mark.parametrize("backend", ["tfdata", "resident"])
def test_batches_hold_probabilities_beside_their_images(backend, shards):
  """Those of originals are one-hot, those of the shards what the column says."""
  for batch in batches_of(backend, SOURCE, shards):
    which, generated = numbers(batch["image"]), batch["generated"]
    given = batch[PROBABILITIES]
    assert given.dtype == np.float32 and generated.any() and not generated.all()
    np.testing.assert_array_equal(given[generated], PROBS[which][generated])
    np.testing.assert_array_equal(given[~generated], np.eye(5)[batch["label"][~generated]])


@pytest.mark.parametrize("backend", ["tfdata", "resident"])
def test_batches_of_labels_hold_none(backend, shards):
  plain = batches_of(backend, SOURCE, shards, original_share=1.0)
  assert all(PROBABILITIES not in batch for batch in plain)


def test_targets_are_probabilities_smoothed_and_mixed():
  (batch,) = batches_of("resident", KNOWN, None, original_share=1.0)[:1]
  given = batch[PROBABILITIES]
  key = jax.random.key(0)
  options = {"num_classes": 5, "pad": 0, "flip": False}
  plain = augment.make_prepare(**options)(batch, key)
  np.testing.assert_array_equal(plain["target"], given)
  smooth = augment.make_prepare(**options, label_smoothing=0.1, smoothing_scope="all")(batch, key)
  np.testing.assert_allclose(smooth["target"], 0.9 * given + 0.02, atol=1e-6)
  mixed = augment.make_prepare(**options, mixup_alpha=1.0)(batch, key)
  flat = np.asarray(plain["image"]).reshape(12, -1)
  weights = np.linalg.lstsq(flat.T, np.asarray(mixed["image"]).reshape(12, -1).T, rcond=None)[0].T
  np.testing.assert_allclose(mixed["target"], weights @ given, atol=1e-4)
