"""The launchers, a PATH of stand-ins, and the parts of the JobSets."""

import os

import pytest
import yaml
from stand_ins import PYTHON, write_program


@pytest.fixture
def launch(repository):
  """The folder of the launchers."""
  return repository / "launch"


@pytest.fixture
def bench(tmp_path):
  """A folder on the PATH with the stand-in for python, and an environment with a home."""
  folder = tmp_path / "bin"
  folder.mkdir()
  write_program(folder / "python", PYTHON)
  (tmp_path / "home").mkdir()
  path = f"{folder}:{os.environ['PATH']}"
  keep = {"PATH": path, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path), "GRACE": "1"}
  return folder, keep


@pytest.fixture
def documents(launch):
  """The documents of jobset.yaml by their label `part`."""
  found = list(yaml.safe_load_all((launch / "jobset.yaml").read_text()))
  named = {document["metadata"]["labels"]["part"]: document for document in found}
  assert len(named) == len(found)
  return named


@pytest.fixture
def certify_documents(launch):
  """The documents of certify_jobset.yaml by their label `part`."""
  found = list(yaml.safe_load_all((launch / "certify_jobset.yaml").read_text()))
  return {document["metadata"]["labels"]["part"]: document for document in found}
