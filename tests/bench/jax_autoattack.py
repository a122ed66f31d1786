"""Our standard AutoAttack on the oracle net, over the devices that JAX finds."""

import pathlib
import re
import sys
import time

import jax
import numpy as np
from side_process import read_flags, tell

from jax_robust import attacks
from jax_robust.runs.devices import local_devices

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "attacks"))
import oracle_net


def main():
  flags = read_flags(file="", norm="Linf", images=200, batch=128, seed=0)
  compiled = [0.0]

  def listen(event, seconds, **_):
    if event.endswith("backend_compile_duration"):
      compiled[0] += seconds

  jax.monitoring.register_event_duration_secs_listener(listen)
  recorded = np.load(flags.file)
  x, labels = (np.asarray(a)[: flags.images] for a in oracle_net.images_and_labels(recorded))
  ball = {"Linf": attacks.linf_ball, "L2": attacks.l2_ball}[flags.norm]
  ball = ball(float(recorded[f"{flags.norm}/eps"]))
  evaluate = attacks.make_autoattack(
    oracle_net.make_logits_fn(recorded), norm=ball.norm, batch_size=flags.batch,
    devices=local_devices("jit"),
  )  # fmt: skip
  marks = []

  def report(line):
    if line.startswith(("initial accuracy", "robust accuracy after")):
      marks.append((time.monotonic(), compiled[0], re.findall(r"(\d+) (?:forward|backward)", line)))

  result = evaluate(x, labels, jax.random.key(flags.seed), ball=ball, check=False, report=report)
  found = {}
  for i, (name, robust) in enumerate(result.robust_after.items()):
    (began, before, _), (ended, after, passes) = marks[i], marks[i + 1]
    found[name] = {
      "seconds": ended - began, "compile_seconds": after - before, "forward": int(passes[0]),
      "backward": int(passes[1]), "robust": robust.tolist(),
    }  # fmt: skip
  what = f"jax {jax.__version__}, {jax.device_count()} {jax.default_backend()} devices"
  tell(what=what, **found)


if __name__ == "__main__":
  main()
