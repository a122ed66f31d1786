"""XLA's flags for programs that run once: compiling takes half the time, running longer.

Code generation is the compiler's own business: numbers change in the last digits alone. The slow
tests and `.ci/run`'s quickstart run what users run.
"""

import importlib.metadata

_JAXLIB = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])

FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if _JAXLIB < (0, 11):  # later ones refuse the flag
  FLAGS.append("--xla_cpu_use_fusion_emitters=false")
XLA_FLAGS = " ".join(FLAGS)

ENVIRONMENT = {
  # JAX notes where each operation came from, and shortens the tracebacks of errors: tests that
  # trace much or wait for many errors spend an eighth of their time on it.
  "JAX_TRACEBACK_FILTERING": "off",
  "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
  "JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS": "0",
}
