"""A job that is one row of the table and a function: squares of numbers, a row each."""

import json
import time

from jax_robust import job_table
from jax_robust.atomic import write_atomically
from jax_robust.runs import pieces


def register():
  """Adds the row."""
  job_table.JOBS["toy"] = job_table.Job(
    "toy_job:toy",
    block="toy",
    defaults={"num": 30, "base": 2, "shard": "0/1", "pieces": ()},
    may_change=("toy.shard", "toy.pieces"),
    results="toy_job:write_results",
  )


def toy(config, path):
  """Squares whole numbers, slowly."""
  store = pieces.Rows(
    path / "results" / "toy",
    {"base": config.toy.base},
    range(config.toy.num),
    share=pieces.share_of("toy.shard", config.toy.shard),
  )
  for ids in store.missing():
    time.sleep(0.01)
    store.write({"id": int(ids[0]), "power": int(ids[0]) ** config.toy.base})
  return write_results(config, path, [store.folder]) if pieces.wait([store]) else {}


def write_results(config, path, folders):
  """Writes the sum, if complete."""
  work = pieces.find(folders)
  if not work.is_complete("toy"):
    return {"complete": False}
  result = {"sum": sum(row["power"] for row in work.contents())}
  write_atomically(path / "results" / "toy.json", json.dumps(result))
  return result
