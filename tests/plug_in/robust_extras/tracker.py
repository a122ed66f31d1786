"""A tracker: a file in the workdir with a line for each value."""

from jax_robust import trackers


class Lines:
  takes_results = True

  def __init__(self, run, *, file: str = "lines.txt"):
    self.path = run.folder / file

  def start(self):
    return {"file": self.path.name}

  def write(self, points):
    with self.path.open("a") as file:
      file.writelines(f"{step} {name} {x}\n" for step, each in points for name, x in each.items())

  def write_result(self, step, values, files):
    self.write([(step, values)])

  def close(self, finished):
    pass


trackers.TRACKERS["lines"] = Lines
