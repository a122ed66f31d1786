"""One law for what early exits are called with: good and bad arguments."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import as_a_user  # noqa: F401

from jax_robust import early_exit

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
OUTPUTS = DRAW.normal(scale=2, size=(3, 20, 4)).astype(np.float32)
LABELS = np.argmax(OUTPUTS[2], axis=1)
KNOWN = np.asarray(early_exit.confidences(tuple(map(jnp.asarray, OUTPUTS))))
COSTS = (1.0, 2.0, 3.0)
SHARES = (0.5, 0.25, 0.25)
X = DRAW.uniform(0, 1, (5, 2, 2, 1)).astype(np.float32)

CALLS = {
  "risk_control": lambda outputs=OUTPUTS, labels=LABELS, **more: early_exit.risk_control(
    outputs, labels, **{"delta": 0.3, "alpha": 0.1, **more}
  ),
  "common_threshold": lambda outputs=OUTPUTS, labels=LABELS, **more: early_exit.common_threshold(
    outputs, labels, more.pop("costs", COSTS), **more
  ),
  "slowdown_report": lambda outputs=OUTPUTS, labels=LABELS, costs=COSTS: early_exit.slowdown_report(
    outputs, outputs, labels, [0.5, 0.5], costs
  ),
}
every_call = pytest.mark.parametrize("name", CALLS)


def flat(values):
  """A result as text, exact."""
  return str(values)


@every_call
def test_labels_and_outputs_of_every_form_give_one_result(name):
  expected = flat(CALLS[name]())
  for labels in (
    LABELS.tolist(),
    LABELS[:, None],
    np.eye(4)[LABELS],
    np.eye(4, dtype=bool)[LABELS],
  ):
    assert flat(CALLS[name](labels=labels)) == expected
  for outputs in (tuple(OUTPUTS), list(OUTPUTS), jnp.asarray(OUTPUTS), OUTPUTS.tolist()):
    assert flat(CALLS[name](outputs=outputs)) == expected


BAD_LABELS = {
  "floats": (LABELS * 1.0, r"labels have shape \(20,\) and dtype float64: .*astype\(int\)"),
  "flags": (LABELS == 1, "labels have dtype bool"),
  "few": (LABELS[:2], "one for each of 20 images"),
  "range": (LABELS + 9, "labels .* are outside 0 to 3"),
  "negative": (LABELS - 9, "are outside 0"),
  "None": (None, "dtype object"),
}
BAD_OUTPUTS = {
  "one exit": (OUTPUTS[:1], "outputs have 1 exits: expected two or more"),
  "no axis of exits": (
    OUTPUTS[0],
    r"outputs have shape \(20, 4\): expected logits \[exits, n, k\]",
  ),
  "unequal": ((OUTPUTS[0], OUTPUTS[1][:, :3]), "all of one shape"),
  "one logit": (OUTPUTS[:, :, :1], r"stack\(\[-z, z\]"),
  "classes": (OUTPUTS.astype(int), "floating-point logits"),
  "no images": (OUTPUTS[:, :0], "outputs have no images"),
  "nan": (np.where(np.arange(20)[:, None] == 3, np.nan, OUTPUTS), "images 3 are NaN or infinite"),
  "inf": (np.where(OUTPUTS > 4, np.inf, OUTPUTS), "are NaN or infinite"),
  "a dict": ({"a": OUTPUTS[0]}, "outputs are no such: expected"),
  "None": (None, "outputs are no such"),
}


@pytest.mark.parametrize("row", BAD_LABELS)
@every_call
def test_bad_labels_are_refused(name, row):
  labels, message = BAD_LABELS[row]
  with pytest.raises((TypeError, ValueError), match=message):
    CALLS[name](labels=labels)


@pytest.mark.parametrize("row", BAD_OUTPUTS)
@every_call
def test_bad_outputs_are_refused(name, row):
  outputs, message = BAD_OUTPUTS[row]
  with pytest.raises((TypeError, ValueError), match=message):
    CALLS[name](outputs=outputs)


def deployed(run_block, x=X, **more):
  return early_exit.make_deployed(run_block, [0.5], **{"num_exits": 2, "batch_size": 4, **more})(x)


def block(state, number):
  return state, state.reshape(len(state), -1)[:, :3] * (number + 1)


@pytest.mark.parametrize(
  ("run", "message"),
  [
    (lambda: early_exit.check_thresholds(["a", "b"], 3), "thresholds=.*: expected numbers"),
    (lambda: early_exit.check_thresholds([90, 1e8], 3), "thresholds holds 90: .*did you mean 0.9"),
    (lambda: early_exit.check_thresholds([0.5] * 10**5, 3), "thresholds=.{,201} has 100000 ent"),
    (lambda: CALLS["risk_control"](grid=[99, 50]), "grid holds 99: .*did you mean 0.99"),
    (lambda: early_exit.check_thresholds(None, 3), "thresholds=None: expected numbers"),
    (lambda: early_exit.check_thresholds([[0.5], [0.5, 0.5]], 3), "expected numbers"),
    (lambda: early_exit.check_thresholds([0.5], "2"), "num_exits='2': expected a whole number"),
    (lambda: early_exit.exit_fractions([0, 5], 3), "taken holds 5: expected 0 to 2"),
    (lambda: early_exit.exit_fractions([0, -1], 3), "taken holds -1: expected 0 to 2"),
    (lambda: early_exit.exit_fractions([0.0], 3), "dtype float64: expected the numbers of exits"),
    (lambda: early_exit.exit_fractions([], 3), "at least 1 image"),
    (lambda: early_exit.exit_fractions([0], 0), "num_exits=0: expected"),
    (
      lambda: early_exit.choose_thresholds(KNOWN[0], SHARES),
      r"confidence has shape \(20,\): expected",
    ),
    (
      lambda: early_exit.choose_thresholds(OUTPUTS, SHARES),
      r"\[exits, n\], early_exit.confidences",
    ),
    (
      lambda: early_exit.choose_thresholds(9 * KNOWN, SHARES),
      "confidence holds .*expected confidences",
    ),
    (lambda: early_exit.choose_thresholds(KNOWN, None), "fractions=None: expected numbers"),
    (lambda: early_exit.choose_thresholds(None, SHARES), "confidence=None: expected numbers"),
    (lambda: early_exit.first_confident(OUTPUTS[:, :, 0], [0.5, 0.5]), "expected confidences in"),
    (lambda: early_exit.first_confident(OUTPUTS, [0.5, 0.5]), r"shape \(3, 20, 4\)"),
    (lambda: early_exit.sweep(KNOWN, KNOWN, 5), "budgets=5: expected a list"),
    (lambda: early_exit.sweep(OUTPUTS, KNOWN), "heldout has shape"),
    (lambda: early_exit.sweep(KNOWN, KNOWN[:, :0], [5]), "at least 1 image"),
    (lambda: early_exit.target_fractions(None, 3), "budget=None: expected numbers"),
    (lambda: early_exit.target_fractions(5, 2.5), "num_exits=2.5: expected a whole number"),
    (lambda: early_exit.expected_cost(SHARES, "abc"), "costs='abc': expected numbers"),
    (lambda: early_exit.expected_cost(SHARES, [None, 1, 2]), "costs=.*: expected numbers"),
    (lambda: early_exit.efficacy(None, COSTS), "fractions=None: expected numbers"),
    (lambda: CALLS["common_threshold"](grid=0.5), r"grid has shape \(\): expected thresholds"),
    (lambda: CALLS["common_threshold"](grid="x"), "grid='x': expected numbers"),
    (lambda: CALLS["common_threshold"](grid=[[0.5, 0.5]]), r"expected thresholds \[m\]"),
    (lambda: CALLS["common_threshold"](max_drop=None), "max_drop=None: expected a probability"),
    (lambda: CALLS["risk_control"](delta="0.1"), "delta='0.1': expected a probability"),
    (lambda: CALLS["risk_control"](alpha=np.array([0.1, 0.2])), "alpha=.*: expected a probability"),
    (lambda: CALLS["risk_control"](grid=None), "grid=None: expected numbers"),
    (lambda: early_exit.early_exit("net", [0.5]), "logits_fn='net': expected a function"),
    (lambda: deployed(None), "run_block=None: expected a function"),
    (lambda: deployed(block, num_exits="3"), "num_exits='3': expected"),
    (lambda: deployed(block, batch_size=None), "batch_size=None: expected a whole number"),
    (lambda: deployed(block, 255 * X), r"leave \[0, 1\]"),
    (lambda: deployed(block, X * np.nan), "not finite"),
    (lambda: deployed(block, (255 * X).astype(np.uint8)), "x has dtype uint8"),
    (lambda: deployed(block, X[:0]), "at least 1"),
    (lambda: deployed(block, 0.5), "x has shape"),
    (lambda: deployed(lambda state, n: block(state, n)[1]), "expected \\(state, logits\\)"),
    (
      lambda: deployed(lambda state, n: (state, block(state, n)[1][:2])),
      "for 8 images|for 4 images",
    ),
    (
      lambda: deployed(lambda state, n: (state, state.reshape(len(state), -1)[:, : n + 3])),
      "the same",
    ),
  ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(run, message):
  with pytest.raises((TypeError, ValueError), match=message):
    run()


def test_an_image_without_a_confidence_makes_no_threshold():
  known = np.array([[0.9, np.nan, np.nan, np.nan], [0.5] * 4], np.float32)
  assert early_exit.choose_thresholds(known, [0.75, 0.25]).tolist() == [1e8]
  assert early_exit.choose_thresholds(known, [0.25, 0.75]).tolist() == [np.float32(0.9)]


def test_confidences_of_half_precision_are_those_of_single():
  """In bfloat16 .994 and .998 are both .996, so that images left at exits they were not sure at."""
  outputs = tuple(jnp.asarray(each, jnp.bfloat16) for each in 3 * OUTPUTS)
  single = tuple(each.astype(jnp.float32) for each in outputs)
  found = early_exit.confidences(outputs)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, early_exit.confidences(single))
  taken = functools.partial(early_exit.exit_taken, thresholds=[0.9995, 0.9995])
  np.testing.assert_array_equal(taken(outputs), taken(single))
