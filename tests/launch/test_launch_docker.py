"""The Dockerfile: base, files, extras, user and entry point."""

import ast
import os
import re
import subprocess
import tomllib

import pytest
from jobset_schema import pods_of

pytestmark = pytest.mark.fast


def _instructions(launch):
  """The instructions of the Dockerfile in order: (name, value), lines joined, no comments."""
  lines = (launch / "Dockerfile").read_text().splitlines()
  text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
  joined = text.replace("\\\n", " ").splitlines()
  found = [line.split(maxsplit=1) for line in joined if line.strip()]
  assert {name for name, _ in found} <= {
    *("FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENV", "ENTRYPOINT")
  }
  return found


def _project(repository):
  """The project table of pyproject.toml."""
  return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def test_docker_base_is_a_supported_python(launch, repository):
  instructions = _instructions(launch)
  (base,) = [value for name, value in instructions if name == "FROM"]
  assert instructions[0] == ["FROM", base]
  version = re.fullmatch(r"python:(\d+\.\d+)-slim", base).group(1)
  project = _project(repository)
  lower = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"]).groups()
  assert tuple(map(int, version.split("."))) >= tuple(map(int, lower))
  assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_docker_copies_what_the_package_is_built_from(launch, repository):
  copied = []
  for name, value in _instructions(launch):
    if name == "COPY":
      *sources, target = value.split()
      copied += sources
      assert target in ("./", *sources)
  assert {"pyproject.toml", "jax_robust", "configs"} <= set(copied)
  project = _project(repository)
  assert {project["readme"], *project["license-files"]} <= set(copied)
  for source in copied:
    assert (repository / source).exists(), f"launch/Dockerfile copies {source}, which is not there"


@pytest.mark.parametrize("extra", ["cuda", "tpu", ""])
def test_docker_installs_the_extra(launch, repository, extra):
  instructions = _instructions(launch)
  names = [name for name, _ in instructions]
  default = dict(instructions)["ARG"].removeprefix("EXTRA=")
  extras = _project(repository)["optional-dependencies"]
  assert default in extras and (not extra or extra in extras)
  (install,) = [value for name, value in instructions if name == "RUN" and "pip" in value]
  assert names.index("ARG") > names.index("FROM")  # before FROM it would be empty in the RUN
  last_copy = max(index for index, name in enumerate(names) if name == "COPY")
  assert last_copy < instructions.index(["RUN", install]) < names.index("USER")
  expanded = subprocess.run(
    ["sh", "-c", install.replace("pip install", "echo")],
    env=os.environ | {"EXTRA": extra},
    capture_output=True,
    text=True,
    check=True,
  )
  assert expanded.stdout.split() == ["--no-cache-dir", f".[train,{extra}]" if extra else ".[train]"]


def test_docker_runs_main_as_an_unprivileged_user(launch, documents):
  instructions = _instructions(launch)
  values = dict(instructions)
  (user,) = [value for name, value in instructions if name == "USER"]
  (added,) = [value for name, value in instructions if name == "RUN" and "useradd" in value]
  assert int(user) > 0 and f"--uid {user} " in added
  for part in ("tpu", "gpu"):
    assert pods_of(documents[part])[2]["securityContext"]["runAsUser"] == int(user)
  entry = ast.literal_eval(values["ENTRYPOINT"])  # the exec form, or SIGTERM ends in a shell
  assert entry == ["python", "-m", "jax_robust.main"]
  assert instructions[-1][0] == "ENTRYPOINT"
