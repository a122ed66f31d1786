"""certify_jobset.yaml: pieces and their merge, and a slice; the flags that it sets."""

import re

import pytest
from jobset_schema import JOBSET, check_fields, flags_of, pods_of
from stand_ins import STOPPED

pytestmark = pytest.mark.fast


def test_certify_jobset_of_a_slice_is_that_of_training(certify_documents, documents):
  """But for the name and what it runs."""
  assert set(certify_documents) == {"pieces", "tpu"}
  document, training = certify_documents["tpu"], documents["tpu"]
  check_fields(document, JOBSET, "tpu")
  flags = flags_of(pods_of(document)[1])
  assert flags["--config.job"] == "certify" and flags["--config.distributed"] == "True"
  assert set(flags) == {
    "--config", "--config.job", "--config.smoothing.weights", "--config.data_dir", "--workdir",
    "--config.distributed",
  }  # fmt: skip
  for each in (document, training):
    pod = pods_of(each)[2]
    pod["containers"][0]["command"] = pod["terminationGracePeriodSeconds"] = each["metadata"] = None
  assert document == training


def test_certify_jobset_pieces_and_their_merge(certify_documents):
  document = certify_documents["pieces"]
  assert document["spec"]["failurePolicy"] == {"maxRestarts": 0}
  pieces, merge = document["spec"]["replicatedJobs"]
  assert merge["dependsOn"] == [{"name": pieces["name"], "status": "Complete"}]
  pieces, merge = (each["template"]["spec"] for each in (pieces, merge))
  assert pieces["completionMode"] == "Indexed" and pieces["parallelism"] <= pieces["completions"]
  ours, theirs = flags_of(pieces), flags_of(merge)
  assert (ours["--config.job"], theirs["--config.job"]) == ("certify", "merge")
  index = "$(JOB_COMPLETION_INDEX)"
  assert ours["--config.smoothing.shard"] == f"{index}/{pieces['completions']}"
  assert theirs["--config.smoothing.pieces"] == f"{theirs['--workdir']}/pieces/*"
  assert ours["--workdir"] == f"{theirs['--workdir']}/pieces/{index}"
  assert (
    ours["--config"] == theirs["--config"] == ours["--config.smoothing.weights"] + "/config.json"
  )
  (variable,) = pieces["template"]["spec"]["containers"][0]["env"]
  path = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  assert variable == {
    "name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": path}}
  }  # fmt: skip
  rules = pieces["podFailurePolicy"]["rules"]
  codes = {tuple(r["onExitCodes"]["values"]): r["action"] for r in rules if "onExitCodes" in r}
  assert codes == {(STOPPED,): "Ignore", (2,): "FailJob"}


def test_certify_jobset_uses_the_storage_of_training(certify_documents, documents):
  claim = documents["storage"]["metadata"]["name"]
  for document in certify_documents.values():
    for job in document["spec"]["replicatedJobs"]:
      pod = job["template"]["spec"]["template"]["spec"]
      (volume,), (container,) = pod["volumes"], pod["containers"]
      assert volume["persistentVolumeClaim"]["claimName"] == claim
      assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]
      assert container["resources"]["requests"] == container["resources"]["limits"]
      flags = flags_of(job["template"]["spec"])
      assert all(
        flags[name].startswith("/shared/") for name in ("--config", "--workdir") if name in flags
      )


@pytest.mark.parametrize("name", ["certify_array.sbatch", "certify_jobset.yaml"])
def test_certify_flags_are_those_of_a_config(launch, repository, name):
  """What the files set exists: main itself reads the flags."""
  text = (launch / name).read_text()
  keys = set(re.findall(r"--config\.([\w.]+)=", text))
  assert {"job", "smoothing.shard", "smoothing.pieces", "smoothing.weights"} <= keys
  config = f"--config={repository}/configs/mnist_smoothing.py"
  values = {"job": "certify", "smoothing.shard": "0/2", "distributed": "True"}
  flags = [f"--config.{key}={values.get(key, 'x')}" for key in sorted(keys)]
  from jax_robust import main

  assert main.main([config, *flags, "--print-config"]) == 0
