"""jobset.yaml: its structure, its volume, and how its processes find each other."""

import collections
import math
import re

import pytest
from jobset_schema import JOBSET, check_fields, pods_of
from stand_ins import CONFIG, COORDINATION

pytestmark = pytest.mark.fast


def test_jobset_parts(documents):
  assert set(documents) == {"storage", "tpu", "gpu"}
  storage = documents["storage"]
  assert (storage["apiVersion"], storage["kind"]) == ("v1", "PersistentVolumeClaim")
  assert storage["spec"]["accessModes"] == ["ReadWriteMany"]
  assert set(storage["spec"]["resources"]["requests"]) == {"storage"}


@pytest.mark.parametrize("part", ["tpu", "gpu"])
def test_jobset_structure(documents, part):
  document = documents[part]
  check_fields(document, JOBSET, part)
  assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
  assert document["spec"]["failurePolicy"]["maxRestarts"] >= 1
  _, job, pod = pods_of(document)
  assert job["parallelism"] == job["completions"] >= 1
  causes = collections.Counter(key for rule in job["podFailurePolicy"]["rules"] for key in rule)
  assert causes == {"action": 2, "onPodConditions": 1, "onExitCodes": 1}
  assert pod["terminationGracePeriodSeconds"] >= 60
  (container,) = pod["containers"]
  assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("part", ["tpu", "gpu"])
def test_jobset_runs_main_on_the_shared_volume(documents, repository, part):
  _, _, pod = pods_of(documents[part])
  (container,) = pod["containers"]
  assert container["command"][:3] == ["python", "-m", "jax_robust.main"]
  flags = dict(flag.split("=", 1) for flag in container["command"][3:])
  assert set(flags) == {"--config", "--workdir", "--config.data_dir", "--config.distributed"}
  assert flags["--config.distributed"] == "True"
  assert flags["--config"] == CONFIG and (repository / CONFIG).is_file()
  volumes = {volume["name"]: volume for volume in pod["volumes"]}
  mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
  claim = mounts["/shared"]["persistentVolumeClaim"]["claimName"]
  assert claim == documents["storage"]["metadata"]["name"]
  assert flags["--workdir"].startswith("/shared/")
  assert flags["--config.data_dir"].startswith("/shared/")
  assert set(volumes) == {mount["name"] for mount in container["volumeMounts"]}
  assert ("/dev/shm" in mounts) == (part == "gpu")


def test_jobset_gpu_processes_are_told_who_they_are(documents):
  document = documents["gpu"]
  name, job, pod = pods_of(document)
  (container,) = pod["containers"]
  env = {variable["name"]: variable for variable in container["env"]}
  assert tuple(env) == COORDINATION
  jobset = document["metadata"]["name"]
  host, port = env["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
  assert host == f"{jobset}-{name}-0-0.{jobset}"
  assert int(port) in [entry["containerPort"] for entry in container["ports"]]
  assert env["JAX_NUM_PROCESSES"]["value"] == str(job["completions"])
  path = env["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
  assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  assert list(container["resources"]["limits"]) == ["nvidia.com/gpu"]


def test_jobset_tpu_hosts_make_up_the_slice(documents):
  document = documents["tpu"]
  _, job, pod = pods_of(document)
  (container,) = pod["containers"]
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  assert "cloud.google.com/gke-tpu-accelerator" in pod["nodeSelector"]
  chips = math.prod(map(int, topology.split("x")))
  assert chips == job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
  assert "env" not in container  # GKE's own variables say who is who
  placement = document["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"]
  assert placement == "cloud.google.com/gke-nodepool"
