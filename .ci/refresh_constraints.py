"""Writes constraints.txt: the versions that each Python given would install today.

  python .ci/refresh_constraints.py python3.11 python3.13

The first is the oldest Python that is supported, the last one speaks for all that are newer.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER = """\
# The versions that CI installs: pip install -e '.[test]' -c constraints.txt
# Written by .ci/refresh_constraints.py; see CONTRIBUTING.md.
"""


def frozen(python: str, folder: str) -> dict[str, str]:
  """Versions by package in a fresh environment of this Python, without pip's own and ours."""
  subprocess.run([python, "-m", "venv", folder], check=True)
  pip = [f"{folder}/bin/python", "-m", "pip"]
  subprocess.run([*pip, "install", "-q", "-e", f"{ROOT}[dev,frameworks]"], check=True)
  printed = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
  found = dict(re.findall(r"^([\w.-]+)==(\S+)$", printed, re.MULTILINE))
  for name in ("pip", "setuptools", "wheel", "jax_robust"):
    found.pop(name, None)
  return found


def main() -> None:
  """Writes the file."""
  oldest, *_, newest = sys.argv[1:]
  with tempfile.TemporaryDirectory() as folder:
    old, new = frozen(oldest, f"{folder}/old"), frozen(newest, f"{folder}/new")
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    command = [oldest, "-c", script]
    version = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
  lines = []
  for name in sorted(old | new, key=str.lower):
    if old.get(name) == new.get(name):
      lines.append(f"{name}=={old[name]}")
      continue
    for versions, sign in ((old, "<="), (new, ">")):
      if name in versions:
        lines.append(f'{name}=={versions[name]}; python_version {sign} "{version}"')
  (ROOT / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
  main()
