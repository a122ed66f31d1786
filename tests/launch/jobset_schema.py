"""The fields of a JobSet that are used here, and how its parts are reached."""

from stand_ins import STOPPED

# The fields that are used, with their types: an object is a dict, a list holds one example, a set
# the values allowed. Not the whole API: what is not here is refused, so that slips are found.
JOBSET = {
  "apiVersion": {"jobset.x-k8s.io/v1alpha2"},
  "kind": {"JobSet"},
  "metadata": {"name": str, "labels": dict, "annotations?": dict},
  "spec": {
    "network": {"enableDNSHostnames": {True}},
    "failurePolicy": {
      "maxRestarts": int,
      "rules": [
        {
          "name": str,
          "action": {"RestartJobSetAndIgnoreMaxRestarts"},
          "onJobFailureReasons": [{"PodFailurePolicy"}],
        }
      ],
    },
    "replicatedJobs": [
      {
        "name": str,
        "replicas": {1},
        "template": {
          "spec": {
            "completionMode": {"Indexed"},
            "parallelism": int,
            "completions": int,
            "backoffLimit": {0},
            "podFailurePolicy": {
              "rules": [
                {
                  "action": {"FailJob"},
                  "onPodConditions?": [{"type": {"DisruptionTarget"}, "status": {"True"}}],
                  "onExitCodes?": {"operator": {"In"}, "values": [{STOPPED}]},
                }
              ]
            },
            "template": {
              "spec": {
                "restartPolicy": {"Never"},
                "terminationGracePeriodSeconds": int,
                "nodeSelector?": dict,
                "securityContext": {"runAsNonRoot": {True}, "runAsUser": int, "fsGroup": int},
                "containers": [
                  {
                    "name": str,
                    "image": str,
                    "command": [str],
                    "env?": [
                      {"name": str, "value?": str, "valueFrom?": {"fieldRef": {"fieldPath": str}}}
                    ],
                    "ports": [{"containerPort": int, "name": str}],
                    "resources": {"requests": dict, "limits": dict},
                    "volumeMounts": [{"name": str, "mountPath": str}],
                  }
                ],
                "volumes": [
                  {
                    "name": str,
                    "persistentVolumeClaim?": {"claimName": str},
                    "emptyDir?": {"medium": {"Memory"}},
                  }
                ],
              }
            },
          }
        },
      }
    ],
  },
}


def check_fields(value, schema, where):
  """Holds a YAML value against the little schema above."""
  if isinstance(schema, dict):
    assert isinstance(value, dict), where
    names = {name.removesuffix("?"): name for name in schema}
    assert set(value) <= set(names), f"{where}: unknown {set(value) - set(names)}"
    assert {name for name in schema if not name.endswith("?")} <= set(value), where
    for name, inner in value.items():
      check_fields(inner, schema[names[name]], f"{where}.{name}")
  elif isinstance(schema, list):
    assert isinstance(value, list) and value, where
    for index, inner in enumerate(value):
      check_fields(inner, schema[0], f"{where}[{index}]")
  elif isinstance(schema, set):
    assert value in schema and type(value) in map(type, schema), f"{where}: {value!r}"
  else:
    assert type(value) is schema, f"{where}: {value!r}"


def pods_of(document):
  """The job and the pod template of a JobSet with one replicated job."""
  (replicated,) = document["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  return replicated["name"], job, job["template"]["spec"]


def flags_of(job):
  """The flags of the one container of a job's pods; the command before them is main's."""
  (container,) = job["template"]["spec"]["containers"]
  assert container["command"][:3] == ["python", "-m", "jax_robust.main"]
  return dict(flag.split("=", 1) for flag in container["command"][3:])
