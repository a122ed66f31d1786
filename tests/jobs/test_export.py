"""Weights out of a run and back in: the file, its checksum, `jax_robust.load`, `init_from`."""

import hashlib
import json
import os
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_robust
from jax_robust import config as config_lib
from jax_robust import errors, main
from jax_robust.runs import build, weights, workdir
from jax_robust.train import checkpoint


def exported(folder, *flags):
  """Exports a run in this process; the folder of the export."""
  config = folder / "config.json"
  argv = [f"--config={config}", f"--workdir={folder}", "--config.job=export", *flags]
  assert main.main(argv) == 0
  return folder / "export"


X = jax.random.uniform(jax.random.key(0), (5, 12, 12, 3))


def logits_of(arrays, folder):
  """Logits of a net that is made and filled here."""
  config = config_lib.from_data(workdir.read_config(folder))
  net = build.model(config, 10)
  params, model_state = weights.fit(arrays, net, (12, 12, 3), name="test")
  return np.asarray(net.apply({"params": params, **model_state}, X, train=False))


def averages_of(folder, kind):
  """The averaged parameters and running statistics of a checkpoint, named as weights are."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / kind, read_only=True)
  arrays, _ = reader.read(("ema", "model_state"))
  reader.close()
  renamed = {}
  for name, array in arrays.items():
    first, _, rest = name.partition("/")
    renamed[f"params/{rest}" if first == "ema" else rest] = array
  return renamed


def test_an_export_is_the_averaged_weights_with_a_checksum(copy):
  from safetensors.numpy import load_file

  target = exported(copy)
  arrays = load_file(target / "weights.safetensors")
  expected = averages_of(copy, "best")
  assert arrays.keys() == expected.keys()
  assert {"params/hidden_0/kernel", "batch_stats/batchnorm_0/mean"} <= arrays.keys()
  for name, array in expected.items():
    assert array.dtype == arrays[name].dtype
    np.testing.assert_array_equal(array, arrays[name])
  digest = hashlib.sha256((target / "weights.safetensors").read_bytes()).hexdigest()
  manifest = json.loads((target / "manifest.json").read_text())
  assert manifest["sha256"] == digest
  assert manifest["config"] == json.loads((copy / "config.json").read_text())
  assert manifest["num_parameters"] == 432 * 8 + 2 * 8 + 8 * 10 + 10
  check = ["sha256sum", "--check", "weights.safetensors.sha256"]
  assert subprocess.run(check, cwd=target, capture_output=True).returncode == 0
  assert sorted(os.listdir(target)) == [
    "manifest.json", "weights.safetensors", "weights.safetensors.sha256"
  ]  # fmt: skip


def test_latest_is_exported_where_asked_for(copy):
  from safetensors.numpy import load_file

  best = load_file(exported(copy) / "weights.safetensors")
  latest = load_file(
    exported(copy, "--config.evaluation.checkpoint=latest") / "weights.safetensors"
  )
  for name, array in averages_of(copy, "latest").items():
    np.testing.assert_array_equal(array, latest[name])
  assert any((latest[name] != best[name]).any() for name in best)


@pytest.mark.parametrize("kind", ["best", "latest"])
def test_load_gives_the_logits_of_the_run(trained, kind):
  logits_fn = jax_robust.load(str(trained), checkpoint=kind)
  expected = logits_of(averages_of(trained, kind), trained)
  assert np.ptp(expected) > 0.01
  np.testing.assert_array_equal(np.asarray(logits_fn(X)), expected)
  gradient = jax.grad(lambda x: logits_fn(x).sum())(X)
  assert float(jnp.abs(gradient).max()) > 0


def test_an_export_reads_back_as_what_it_was(copy):
  target = exported(copy)
  expected = logits_of(averages_of(copy, "best"), copy)
  for place in (target, target / "weights.safetensors", copy):
    np.testing.assert_array_equal(logits_of(weights.read_weights(str(place)), copy), expected)


def test_a_running_job_is_not_disturbed_by_a_load(copy):
  being_written = copy / "checkpoints" / "latest" / "84.orbax-checkpoint-tmp"
  being_written.mkdir()
  with workdir.claimed(str(copy)):
    jax_robust.load(str(copy), checkpoint="latest")
  assert being_written.exists()


def test_what_is_no_run_is_refused(trained, tmp_path):
  with pytest.raises(workdir.WorkdirError, match=r"has no config\.json"):
    jax_robust.load(str(tmp_path))
  with pytest.raises(workdir.WorkdirError, match=r"there is no workdir .*did you mean .*/run'\?"):
    jax_robust.load(str(trained.parent / "rum"))
  with pytest.raises(errors.ConfigError, match="checkpoint='bets': expected 'best' or 'latest'"):
    jax_robust.load(str(trained), checkpoint="bets")
  (tmp_path / "config.json").write_text((trained / "config.json").read_text())
  with pytest.raises(errors.ConfigError, match="no checkpoint yet: train first"):
    jax_robust.load(str(tmp_path))
  (tmp_path / "runs" / "trades").mkdir(parents=True)
  with pytest.raises(errors.ConfigError, match=r"comparison: name one of its runs, .*/trades$"):
    jax_robust.load(str(tmp_path))


def test_weights_that_changed_since_are_refused(copy):
  file = exported(copy) / "weights.safetensors"
  content = bytearray(file.read_bytes())
  content[-1] ^= 1
  file.write_bytes(content)
  with pytest.raises(errors.ConfigError, match=r"sha256 is not that of weights.safetensors"):
    weights.read_weights(str(file.parent))


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("weights.pt", b"pickle", "pickle"),
    ("weights.safetensors", b"nothing", "no safetensors file"),
    ("weights.npz", b"nothing", "pickle"),
  ],
)
def test_a_file_without_weights_is_a_mistake_of_the_config(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(errors.ConfigError, match=rf"config.init_from: .*{message}"):
    weights.read_weights(str(tmp_path / name))


def test_weights_of_another_net_are_named(copy):
  arrays = weights.read_weights(str(exported(copy)))
  del arrays["batch_stats/batchnorm_0/mean"]
  arrays["params/logits/bias"] = np.zeros(11, np.float32)
  with pytest.raises(checkpoint.CheckpointMismatchError) as caught:
    logits_of(arrays, copy)
  assert "weights in test do not fit" in str(caught.value)
  assert "batch_stats/batchnorm_0/mean: missing" in str(caught.value)
  assert "params/logits/bias: (11,) in the checkpoint, (10,) in the model" in str(caught.value)


@pytest.mark.thorough
def test_training_and_evaluation_start_from_an_export(command, run_flag, copy, tmp_path):
  target = exported(copy)
  own = command([run_flag, f"--workdir={copy}", "--config.job=evaluate"])
  assert own.code == 0, own.printed
  flags = [run_flag, f"--config.init_from={target}", f"--workdir={tmp_path / 'evaluated'}"]
  assert command([*flags, "--config.job=evaluate"]).code == 0
  numbers = []
  for folder in (copy, tmp_path / "evaluated"):
    result = json.loads((folder / "results" / "evaluate.json").read_text())
    assert result["weights"].pop("step") == (None if folder != copy else newest_best(copy))
    assert result["weights"].pop("checkpoint") == ("best" if folder == copy else "init_from")
    del result["versions"], result["command"]
    numbers.append(result)
  assert numbers[0] == numbers[1]
  assert workdir.read_config(copy)["job"] == "train"

  flags = [run_flag, f"--config.init_from={target}", f"--workdir={tmp_path / 'trained'}"]
  # Not a step of 80 with a learning rate of 0: the average of the result is the average given.
  still = ["--config.schedule.learning_rate=0", "--config.optimizer.weight_decay=0"]
  assert command([*flags, *still, "--config.save_steps=80"]).code == 0
  for name, array in averages_of(tmp_path / "trained", "latest").items():
    if name.startswith("params/"):
      np.testing.assert_allclose(array, averages_of(copy, "best")[name], rtol=1e-5, atol=1e-7)


def newest_best(folder):
  """The step of the best checkpoint."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / "best", read_only=True)
  step = reader.latest_step()
  reader.close()
  return step
