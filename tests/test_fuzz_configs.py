"""Damaged configs and command lines: a sentence, quickly, and nothing of another type is taken."""

import json
import pathlib
import random
import time

import pytest

from jax_robust import config as config_lib
from jax_robust import main, presets
from jax_robust.errors import UserError
from jax_robust.runs import check

TINY = pathlib.Path(__file__).parent / "tiny_config.py"
SEEDS = ["quickstart", "mnist_smoothing:smoke", "cifar10_laptop:smoke", str(TINY)]

ODD = (
  None, True, False, 0, -1, 3, 10**30, 0.5, -0.5, 1e308, float("inf"), "", " ", "x", "true",
  "8/255", "~", "я" * 50, "a\x00b", [], [1], ["a", None], [[[]]], {},
  {"name": "x"}, {"a": {"b": 1}},
)  # fmt: skip
"""What stands in place of a value."""


def places(data, above=()):
  """Every key of a config, as the blocks above and its name."""
  for name, value in data.items():
    yield (*above, name)
    if isinstance(value, dict):
      yield from places(value, (*above, name))


def damaged(data, rng):
  """The text of a config with one thing wrong, and whether it must be refused."""
  kind = rng.choice(["value", "value", "value", "key", "cut", "byte", "drop", "twice", "add"])
  data = json.loads(json.dumps(data))
  *above, name = rng.choice(list(places(data)))
  block = data
  for each in above:
    block = block[each]
  if kind == "value":
    old, new = block[name], rng.choice(ODD)
    block[name] = new
    numbers = isinstance(old, (int, float)) and isinstance(new, (int, float))
    wrong = type(old) is not type(new) and None not in (old, new) and not numbers
    wrong = wrong and name != "exit"  # a name or a number
    return json.dumps(data), wrong and (tuple(above), name) != ((), "runs") and above[:1] != [
      "runs"
    ]
  if kind == "drop":
    del block[name]
  elif kind == "key":
    block[rng.choice(["", "_x", "__class__", "a.b", name + "x", name[:-1], "items"])] = block.pop(
      name
    )
  elif kind == "add":
    block[rng.choice(["__init__", "zzz", "x.y", "_fields", "lock"])] = rng.choice(ODD)
  text = json.dumps(data)
  if kind == "cut":
    return text[: rng.randrange(len(text))], True
  if kind == "byte":
    place = rng.randrange(len(text))
    return text[:place] + chr(rng.randrange(32, 1000)) + text[place + 1 :], False
  if kind == "twice":
    return text[:-1] + ', "seed": 5}', True
  return text, kind == "add" and above[:1] not in (
    ["runs"],
    ["evals"],
    ["generate"],
  ) and "step_sizes" not in above


def look(config):
  """All that is looked at before a workdir is touched."""
  return check.check(config)


def try_config(folder, text):
  """Whether a config is taken; anything but a `UserError` is a defect."""
  (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
  began = time.monotonic()
  try:
    look(presets.complete(config_lib.load(str(folder / "config.json"))))
    return True
  except UserError as error:
    assert 0 < len(str(error)) < 4000
    return False
  finally:
    assert time.monotonic() - began < 10


def try_command(capsys, argv):
  """Whether a command line is taken."""
  began = time.monotonic()
  code = main.main([*argv, "--print-config"])
  captured = capsys.readouterr()
  assert code in (0, 2) and "Traceback" not in captured.err
  assert code == 0 or captured.err.startswith("jax_robust: ")
  assert time.monotonic() - began < 10
  if code == 0 and "Train, attack" not in captured.out:
    data = config_lib.from_data(json.loads(captured.out))
    try:
      look(data)
    except UserError:
      return False
  return code == 0


def stored():
  """Configs as their workdirs hold them."""
  return [config_lib.to_data(presets.complete(config_lib.load(each))) for each in SEEDS]


def fuzz_configs(folder, count):
  """Damages configs so many times; returns what was taken though it must not be."""
  rng, found, data = random.Random(count), [], stored()
  for number in range(count):
    text, must_fail = damaged(data[number % len(data)], rng)
    if try_config(folder, text) and must_fail:
      found.append(text)
  return found


def fuzz_commands(capsys, count):
  """Changes keys and values of command lines so many times; returns which were taken."""
  rng, data, taken = random.Random(count), stored(), []
  junk = ("", "=", "none", "1,2", "8/0", "nan", "1e999", "(", "[" * 5000, "я", "\udcff", "a=b", "~")
  for number in range(count):
    keys = [".".join(each) for each in places(data[number % len(data)])]
    flags = []
    for _ in range(rng.randrange(1, 4)):
      key = rng.choice(keys)
      cut = rng.randrange(len(key) + 1)
      key = rng.choice([key, key, key[:cut] + rng.choice(["", "x", ".", "__"]) + key[cut + 1 :]])
      flags.append(f"--config.{key}={rng.choice([*junk, *map(str, ODD)])}")
    taken.append(try_command(capsys, [f"--config={SEEDS[number % len(SEEDS)]}", *flags]))
  return taken


def test_damage_to_a_config_is_a_sentence(tmp_path):
  assert fuzz_configs(tmp_path, 24) == []


def test_damage_to_a_command_is_a_sentence(capsys):
  taken = fuzz_commands(capsys, 16)
  assert len(taken) == 16 and not all(taken)


def test_what_is_undamaged_is_taken_and_a_plain_mistake_is_not(tmp_path, capsys):
  """The fuzzers tell the two apart: else they would pass whatever is said."""
  (data,) = stored()[-1:]
  assert try_config(tmp_path, json.dumps(data))
  assert not try_config(tmp_path, json.dumps({**data, "sead": 1}))
  flag = f"--config={TINY}"
  assert try_command(capsys, [flag])
  assert not try_command(capsys, [flag, "--config.seed=x"])


@pytest.mark.slow
def test_much_damage_to_configs_is_a_sentence(tmp_path):
  assert fuzz_configs(tmp_path, 500) == []


@pytest.mark.slow
def test_much_damage_to_commands_is_a_sentence(capsys):
  taken = fuzz_commands(capsys, 200)
  assert len(taken) == 200 and any(taken) and not all(taken)
