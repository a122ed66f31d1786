"""Workdirs as earlier versions of the library left them."""

import json
import shutil


def forget_run(workdir):
  """Makes a workdir's checkpoints such as did not say yet of which run they are."""
  for step in workdir.glob("checkpoints/*/[0-9]*"):
    shutil.rmtree(step / "run")
    digests = json.loads((step / "digests" / "metadata").read_text())
    del digests["run"]
    (step / "digests" / "metadata").write_text(json.dumps(digests))
