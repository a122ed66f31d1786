"""The detector of overfitting: its rules in closed form, and what a run does about an alarm."""

import json

import pytest
from test_loop import Folder, fake_run

from jax_robust.train import loop, overfitting

pytestmark = pytest.mark.fast


def values(several, single=None):
  """What an evaluation measured of each exit."""
  found = {f"overfitting/several/{k}": value for k, value in enumerate(several)}
  return found | {f"overfitting/single/{k}": value for k, value in enumerate(single or ())}


def alarms_of(history, **options):
  """`(step, exit, rule)` of every alarm of evaluations at steps 1, 2, ..."""
  record, found = {}, []
  for step, each in enumerate(history, start=1):
    record, alarms = overfitting.judge(record, step, each, **options)
    found += [(step, alarm.exit, alarm.rule) for alarm in alarms]
  return found


def test_slow_falls_raise_no_drop():
  history = [values([0.9 - 0.19 * i]) for i in range(5)]
  assert alarms_of(history) == []
  assert alarms_of(history, drop=0.18) == [(step, 0, "drop") for step in range(2, 6)]


def test_one_exit_that_falls_is_named():
  history = [values([0.4, 0.5, 0.45]), values([0.45, 0.5, 0.2]), values([0.45, 0.5, 0.2])]
  assert alarms_of(history) == [(2, 2, "drop")]


def test_a_gap_to_the_single_step_is_an_alarm_of_its_own():
  history = [values([0.4, 0.1], [0.5, 0.5]), values([0.4, 0.1], [0.5, 0.39])]
  assert alarms_of(history) == [(1, 1, "gap")]
  assert alarms_of(history, gap=0.0) == []


def test_both_rules_may_speak_at_once():
  history = [values([0.5], [0.5]), values([0.0], [0.9])]
  assert alarms_of(history) == [(2, 0, "drop"), (2, 0, "gap")]


def test_a_fall_of_the_bound_itself_is_none():
  assert alarms_of([values([0.75]), values([0.5])], drop=0.25) == []


def test_a_weak_net_that_loses_half_of_its_best_is_named():
  """As measured of a net that was .2 robust: it falls by too little for the other rules."""
  history = [values([each], [0.2]) for each in (0.15, 0.22, 0.2, 0.15, 0.1, 0.03)]
  assert alarms_of(history) == []
  assert alarms_of(history, lost=0.5) == [(5, 0, "lost"), (6, 0, "lost")]
  record = {}
  for step, each in enumerate(history):
    record, _ = overfitting.judge(json.loads(json.dumps(record)), step, each, lost=0.5)
  assert record["best"] == {"overfitting/several/0": 0.22}
  assert record["alarms"][0]["rule"] == "lost" and len(record["alarms"]) == 1


def test_nan_is_a_fall_and_the_record_is_data():
  history = [values([0.5, 0.5]), values([float("nan"), 0.5])]
  assert alarms_of(history) == [(2, 0, "drop")]
  record, _ = overfitting.judge({}, 1, history[0], stop=True)
  record, alarms = overfitting.judge(record, 2, history[1], stop=True)
  assert record["stopped"] and record["accepted"] == 1
  assert record["alarms"] == [
    {"step": 2, "exit": 0, "rule": "drop", "fall": None, "accuracy": None}
  ]
  json.dumps(record["alarms"], allow_nan=False)
  assert "exit 0 fell" in overfitting.say(alarms)


def test_the_first_alarm_of_each_exit_and_rule_is_kept():
  record = {}
  for step in (1, 2, 3):
    record, _ = overfitting.judge(record, step, values([0.0], [0.9]))
  assert [alarm["step"] for alarm in record["alarms"]] == [1] and not record["stopped"]


@pytest.mark.parametrize(
  "options", [{"drop": 20}, {"gap": -0.1}, {"lost": 2}, {"drop": float("nan")}]
)
def test_bounds_are_differences_of_accuracies(options):
  with pytest.raises(ValueError, match=f"{next(iter(options))}=.*expected a difference"):
    overfitting.judge({}, 0, {}, **options)


FALLS_AT_6 = {2: 0.3, 4: 0.5, 6: 0.1, 8: 0.1}


def watched(folder, *, stop, trace=None, total=8, kept=None, **changes):
  """The loop on a state that only counts; its exit falls at step 6. `folder` keeps checkpoints."""

  def judge(record, step, measured):
    return overfitting.judge(record, step, values([measured["clean"]]), stop=stop)

  record = (folder.saved[folder.latest_step()] if folder.saved else {}).get(loop.OVERFITTING, {})
  return fake_run(
    trace,
    total=total,
    value_at=FALLS_AT_6.get,
    watch=loop.Watch(judge, record, kept),
    checkpoints=loop.Checkpoints(folder, Folder(), "clean", "max"),
    **changes,
  )


def test_an_alarm_is_said_and_noted_and_the_run_goes_on():
  trace, lines = [], []
  outcome = watched(Folder(), stop=False, trace=trace, report=lines.append)
  assert outcome.step == 8 and "write alarm 6" in trace and "write alarm 8" not in trace
  assert [line for line in lines if "overfitting" in line] == [
    "step 6  overfitting: exit 0 fell by 0.4 to 0.1 (drop)"
  ]
  assert outcome.record["alarms"][0]["step"] == 6 and outcome.record["accepted"] == 8


def test_a_stopped_run_stays_stopped():
  folder, kept = Folder(), Folder("accepted")
  outcome = watched(folder, stop=True, kept=kept)
  assert (outcome.step, outcome.preempted, outcome.record["accepted"]) == (6, False, 4)
  assert kept.latest_step() == 4 and folder.latest_step() == 6
  trace = []
  again = watched(folder, stop=True, kept=kept, trace=trace)
  assert trace == [] and again.record == outcome.record


@pytest.mark.parametrize("stop_at", [4, 5])
def test_a_run_that_goes_on_decides_as_one_that_was_not_interrupted(stop_at):
  """The fall spans the interruption: what was measured before it is in the checkpoint's info."""
  whole = watched(Folder(), stop=True, kept=Folder()).record
  folder, kept = Folder(), Folder()
  first = watched(folder, stop=True, kept=kept, leave=lambda step: step == stop_at)
  assert first.preempted and not first.record["stopped"]
  state = first.state
  judge = lambda record, step, seen: overfitting.judge(  # noqa: E731
    record, step, values([seen["clean"]]), stop=True
  )
  info = folder.info()
  second = fake_run(
    total=8,
    state=state,
    value_at=FALLS_AT_6.get,
    watch=loop.Watch(judge, json.loads(json.dumps(info[loop.OVERFITTING])), kept),
    checkpoints=loop.Checkpoints(folder, Folder(), "clean", "max"),
  )
  assert second.record == whole and second.step == 6 and kept.latest_step() == 4


def test_the_state_of_an_alarm_is_not_the_best():
  best = Folder("best")
  rising = {2: 0.1, 4: 0.2, 6: 0.9}
  judge = lambda record, step, seen: overfitting.judge(  # noqa: E731
    record, step, values([0.5 if step < 6 else 0.0]), stop=True
  )
  outcome = fake_run(
    total=8,
    value_at=rising.get,
    watch=loop.Watch(judge, {}, Folder()),
    checkpoints=loop.Checkpoints(Folder(), best, "clean", "max"),
  )
  assert outcome.step == 6 and outcome.best["step"] == 4
