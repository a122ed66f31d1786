"""Stand-ins for the commands that a launcher calls, and what they were given."""

import json
import re
import subprocess
import sys

CONFIG = "configs/cifar10_trades_ddpm.py"
ARGUMENTS = (f"--config={CONFIG}", "--workdir=a folder", "--config.objective.eps=8/255")
COORDINATION = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
STOPPED = 143

# Stands in for python: one JSON line with what it was given, then what the variable ACT says.
PYTHON = f"""#!{sys.executable}
import json, os, signal, sys, time
names = ("JAX_PLATFORMS", "XLA_FLAGS") + {COORDINATION}
seen = {{name: os.environ.get(name) for name in names}}
print(json.dumps({{"argv": sys.argv[1:], "cwd": os.getcwd(), **seen}}), flush=True)
act = os.environ.get("ACT_" + (seen["JAX_PROCESS_ID"] or ""), os.environ.get("ACT", "0"))
if act == "wait":
  signal.signal(signal.SIGTERM, lambda *_: sys.exit({STOPPED}))
  print("ready", flush=True)
  time.sleep(60)
elif act == "deaf":
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  time.sleep(60)
elif act == "slow":  # its save takes longer than the grace that is given to survivors of a failure
  def save(*_):
    time.sleep(1.5)
    print("saved", flush=True)
    sys.exit({STOPPED})
  signal.signal(signal.SIGTERM, save)
  print("ready", flush=True)
  time.sleep(60)
else:
  sys.exit(int(act))
"""


def write_program(path, text):
  """Writes an executable file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


def run_script(script, *arguments, env, cwd=None):
  """Runs a launcher to its end."""
  command = ["bash", str(script), *arguments]
  return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=90)


def seen_by_python(output):
  """The JSON lines of the stand-ins for python, by the rank in front of them."""
  lines = re.findall(r"^(?:\[(\d+)\] )?(\{.*\})$", output, re.MULTILINE)
  return {int(rank or 0): json.loads(line) for rank, line in lines}


def directives_of(launch, script="slurm.sbatch"):
  """The sbatch directives that SLURM would read: those before the first command."""
  text = (launch / script).read_text()
  head = text[: text.index("\nset -euo")]
  found = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", head, re.MULTILINE)
  assert len(found) == text.count("#SBATCH"), "a directive after the first command is ignored"
  assert len({name for name, _ in found}) == len(found)
  return dict(found)


def run_slurm(launch, bench, *arguments, script="slurm.sbatch", act="0", state="RUNNING", **env):
  """Runs the script with stand-ins for srun, squeue, scontrol: the result and their calls."""
  folder, base = bench
  log = folder.parent / "calls"
  log.write_text("")
  write_program(
    folder / "srun",
    f'#!/bin/bash\necho "srun $*" >> {log}\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
  )
  write_program(folder / "squeue", f'#!/bin/bash\necho "squeue $*" >> {log}\necho {state}\n')
  write_program(folder / "scontrol", f'#!/bin/bash\necho "scontrol $*" >> {log}\n')
  environment = base | {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "6", "ACT": act} | env
  result = run_script(launch / script, *arguments, env=environment)
  return result, log.read_text().splitlines()
