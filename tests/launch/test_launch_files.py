"""Launchers as files: lint, strictness, and what their README says."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from stand_ins import CONFIG, COORDINATION, STOPPED

pytestmark = pytest.mark.fast

SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_vm.sh", "certify_array.sbatch")


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(launch, name):
  beside = pathlib.Path(sys.executable).with_name("shellcheck")
  shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
  assert shellcheck, "shellcheck is missing: pip install -e '.[test]'"
  command = [shellcheck, "--shell=bash", "--severity=style", str(launch / name)]
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_strict_executable_bash(launch, name):
  text = (launch / name).read_text()
  assert text.startswith("#!/usr/bin/env bash\n")
  assert re.search(r"^set -euo pipefail$", text, re.MULTILINE)
  assert os.access(launch / name, os.X_OK)
  subprocess.run(["bash", "-n", str(launch / name)], check=True)


def test_readme_speaks_of_every_file_and_its_commands_exist(launch, repository):
  text = (launch / "README.md").read_text()
  for path in launch.iterdir():
    if path.name != "README.md":
      assert re.search(rf"^## {re.escape(path.name)}", text, re.MULTILINE), path.name
  for name in (*COORDINATION, "--config.distributed=True", str(STOPPED)):
    assert name in text
  for path in re.findall(r"(?:launch|configs)/[\w.]+", text):
    assert (repository / path).is_file(), f"launch/README.md names {path}, which is not there"


@pytest.mark.parametrize("name", ["slurm.sbatch", "jobset.yaml", "README.md"])
def test_the_config_that_is_named_exists(launch, repository, name):
  assert CONFIG in (launch / name).read_text()
  assert (repository / CONFIG).is_file()
