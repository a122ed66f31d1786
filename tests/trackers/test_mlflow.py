"""A real MLflow server with its embedded store: what a killed and resumed run leaves there."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import tracked_run

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def serving(folder, port):
  """A server whose store is in the folder."""
  pytest.importorskip("sqlalchemy")
  argv = ["--backend-store-uri", f"sqlite:///{folder}/store.db", "--workers", "1"]
  argv += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
  with (folder / "server.txt").open("a") as printed:
    server = subprocess.Popen(
      [sys.executable, "-m", "mlflow", "server", *argv],
      stdout=printed, stderr=printed, start_new_session=True,
    )  # fmt: skip
  try:
    for _ in range(600):
      with contextlib.suppress(OSError):
        if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read() == b"OK":
          break
      assert server.poll() is None, (folder / "server.txt").read_text()
      time.sleep(0.2)
    yield
  finally:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.fixture
def place(tmp_path):
  """A folder for a store, a free port, and the environment that names the server."""
  (tmp_path / "store").mkdir()
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  return tmp_path / "store", port, {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}


def the_run(port, experiment):
  """The only run of an experiment, and a client."""
  client = mlflow.MlflowClient(f"http://127.0.0.1:{port}")
  (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
  return client, run


def history(client, run, name):
  found = client.get_metric_history(run.info.run_id, name)
  return sorted((each.step, each.value) for each in found)


def assert_whole(port, experiment, folder):
  """The server has each value of the run once."""
  client, run = the_run(port, experiment)
  assert run.info.status == "FINISHED" and run.info.run_name == folder.name
  assert run.data.params["batch.size"] == "8" and run.data.params["objective.name"] == "trades"
  for kind, name in ("train", "loss"), ("train", "grad_norm"), ("evaluate", "robust"):
    assert history(client, run, f"{kind}/{name}") == tracked_run.series(folder, kind, name)
  result = json.loads((folder / "results" / "train.json").read_text())
  assert run.data.metrics["results/train/best/value"] == result["best"]["value"]
  return client, run


def test_a_killed_run_goes_on_in_one_run_of_the_server(place, tmp_path):
  store, port, environment = place
  folder = tmp_path / "run"
  flags = ("trackers=mlflow", "tracking.mlflow.experiment=mine")
  with serving(store, port):
    for num_rows in 8, 17:
      process = tracked_run.start(folder, *flags, environment=environment)
      tracked_run.kill_after(num_rows, process, folder)
    assert tracked_run.run(folder, *flags, environment=environment) == 0
    assert_whole(port, "mine", folder)
    more = ("job=evaluate", "evaluation.eps_list=0.05,0.1")
    assert tracked_run.run(folder, *more, *flags, environment=environment) == 0
    client, run = assert_whole(port, "mine", folder)
    assert run.data.metrics["results/evaluate/clean"] <= 1.0
    assert [each.path for each in client.list_artifacts(run.info.run_id, "results")] == [
      "results/evaluate.png"
    ]


def test_a_server_that_is_down_gets_everything_later(place, tmp_path):
  store, port, environment = place
  folder = tmp_path / "run"
  began = time.monotonic()
  assert tracked_run.run(folder, "trackers=mlflow", environment=environment) == 0
  assert time.monotonic() - began < 120
  (warning,) = json.loads((folder / "results" / "train.json").read_text())["warnings"]
  assert "tracker mlflow gets nothing more" in warning
  with serving(store, port):
    assert tracked_run.run(folder, "trackers=mlflow", "job=track", environment=environment) == 0
    assert_whole(port, "jax_robust", folder)
