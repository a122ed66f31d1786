"""Who may import whom, and how large things may become, read from the source."""

import ast
import functools
import pathlib
import sys

import pytest

pytestmark = pytest.mark.fast

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "jax_robust"

CORE = ("types", "errors", "names", "atomic", "losses", "nets", "attacks", "smoothing")
SHARED = (*CORE, "bars", "early_exit", "objectives", "models", "data", "generate", "train",
          "evaluate", "image_sets", "trackers", "config", "overrides", "paths", "plugins",
          "presets", "job_table")  # fmt: skip
MAY_IMPORT = {
  "types": (),
  "errors": (),
  "names": (),
  "atomic": (),
  "bars": ("errors",),
  "losses": ("types", "errors", "nets"),
  "nets": ("types", "errors"),
  "attacks": ("types", "errors", "losses", "nets"),
  "smoothing": ("types", "errors", "atomic", "nets"),
  "early_exit": ("types", "errors", "losses", "nets"),
  "objectives": CORE,
  "models": ("types", "errors", "nets"),
  "data": ("types", "errors", "names", "atomic"),
  "generate": ("types", "errors", "losses", "nets", "attacks", "data"),
  "train": (*CORE, "bars", "objectives"),
  "evaluate": (*CORE, "early_exit"),
  "image_sets": ("types", "errors", "evaluate"),
  "trackers": ("types", "errors", "atomic"),
  "paths": ("errors",),
  "plugins": ("errors",),
  "config": ("errors", "paths", "plugins"),
  "overrides": ("config", "errors"),
  "job_table": (),
  "presets": ("config", "errors", "attacks", "job_table"),
  "runs": SHARED,
  "report": (*SHARED, "runs"),
  "jobs": (*SHARED, "runs", "report"),
  "studies": (*SHARED, "runs", "jobs"),
  "main": (
    "bars",
    "config",
    "errors",
    "job_table",
    "jobs",
    "overrides",
    "paths",
    "plugins",
    "presets",
    "runs",
    "train",
  ),
  "api": (*SHARED, "runs", "jobs"),
  "__init__": ("attacks", "errors", "losses", "nets", "smoothing", "jobs", "runs"),
}
"""The rooms of the package, and those that each may import."""

OUTSIDE_THE_CORE = {"jax", "numpy", "scipy", "optax", "chex", "jaxtyping"}
"""What the core may import besides the standard library."""

ONLY_IN = {
  "orbax": ("train/checkpoint",),
  "flax": ("models", "train/state"),
  "ml_collections": ("config", "presets"),
  "tensorflow": ("data",),
  "tensorflow_datasets": ("data",),
  "tensorboardX": ("trackers/tensorboard",),
  "mlflow": ("trackers/mlflow",),
  "wandb": ("trackers/wandb",),
  "h5py": ("data/hdf5",),
  "matplotlib": ("evaluate/plot_style",),
  "tqdm": ("bars",),
  "absl": (),
  "difflib": ("errors",),
}
"""Packages, and the only places that know them."""

LAZY = (
  "tensorflow", "tensorflow_datasets", "tensorboardX", "mlflow", "wandb", "matplotlib", "sklearn",
  "PIL", "tqdm", "h5py",
)  # fmt: skip
"""Packages that are imported inside functions only."""

UNPICKLERS = ("pickle", "dill", "cloudpickle", "marshal", "shelve")

PARTS_OF_JAX = {
  "jax._src": (),
  "jax.experimental.shard_map": (),
  "jax.experimental.pjit": (),
  "jax.extend": ("models/convolution",),  # defines a primitive
  "jax.interpreters": ("models/convolution",),
}
"""Parts of JAX that are private, deprecated or may change, and the only places that use them."""

MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 300, 50
"""Lines that hold code: blank ones, comments and docstrings cost nothing."""


class Source:
  """One file of the package: `place` is `train/loop`, or the folder of an `__init__.py`."""

  def __init__(self, place, text):
    self.place, self.text = place, text
    self.room = place.split("/")[0]
    self.tree = ast.parse(text)

  @functools.cached_property
  def nodes(self):
    """All of its nodes."""
    return list(ast.walk(self.tree))

  @functools.cached_property
  def imports(self):
    """(line, name, whether it is imported with the module) of every import."""
    return list(self._find_imports())

  def _find_imports(self):
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = {
      id(node)
      for function in self.nodes
      if isinstance(function, functions)
      for node in ast.walk(function)
    }
    for node in self.nodes:
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        prefix = "." * node.level + (node.module or "")
        names = [f"{prefix}.{alias.name}" for alias in node.names]
      else:
        continue
      yield from ((node.lineno, name, id(node) not in inside) for name in names)

  def num_code_lines(self, node):
    """Lines of a node that hold code: neither blank, nor comment, nor docstring."""
    rows = self.text.splitlines()
    numbers = set(range(getattr(node, "lineno", 1), getattr(node, "end_lineno", len(rows)) + 1))
    for each in ast.walk(node):
      if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):  # a docstring
        numbers -= set(range(each.lineno, each.end_lineno + 1))
    stripped = (rows[number - 1].strip() for number in numbers)
    return sum(bool(row) and not row.startswith("#") for row in stripped)


@functools.cache
def package():
  """Every file of the package."""
  files = sorted(PACKAGE.rglob("*.py"))
  places = [str(file.relative_to(PACKAGE).with_suffix("")) for file in files]
  return [
    Source(place.removesuffix("/__init__"), file.read_text())
    for place, file in zip(places, files, strict=True)
  ]


def imports_against_the_order(source):
  """Imports of rooms that are not below."""
  for line, name, with_module in source.imports:
    first, *rest = name.split(".")
    if not first:
      yield line, "imports are absolute"
    elif first == "jax_robust" and rest[0] != source.room:
      if rest[0] not in MAY_IMPORT[source.room]:
        yield line, f"{source.room} imports {name}"
      elif source.room == "__init__" and with_module and rest[0] not in CORE:
        yield line, f"{name} comes with the package: the core only does"


def foreign_to_the_core(source):
  """What the core imports beyond a handful of packages."""
  if source.room in CORE:
    for line, name, _ in source.imports:
      first = name.split(".")[0]
      if first not in {"jax_robust", *OUTSIDE_THE_CORE, *sys.stdlib_module_names}:
        yield line, f"the core imports {name}"


def heavy_packages_out_of_place(source):
  """Packages that are loaded with a module, or known in a second place."""
  for line, name, with_module in source.imports:
    first = name.split(".")[0]
    if first in LAZY and with_module:
      yield line, f"{name} is loaded with the module"
    places = ONLY_IN.get(first, (source.place,))
    if not any(source.place == place or source.place.startswith(f"{place}/") for place in places):
      yield line, f"imports {name}"


def unpickled_or_evaluated(source):
  """Ways in which a data file could run code."""
  for line, name, _ in source.imports:
    if name.split(".")[0] in UNPICKLERS:
      yield line, f"imports {name}"
  for node in source.nodes:
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("eval", "exec"):
      yield node.lineno, f"calls {node.func.id}"
    unsafe = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
    if unsafe and getattr(node.value, "value", None) is not False:
      yield node.lineno, "sets allow_pickle"


def fragile_parts_of_jax(source):
  """Imports of what JAX may change without notice."""
  for line, name, _ in source.imports:
    for part, places in PARTS_OF_JAX.items():
      if f"{name}.".startswith(f"{part}.") and source.place not in places:
        yield line, f"imports {name}"


def too_long(source):
  """Files and functions with more code than one idea takes."""
  lines = source.num_code_lines(source.tree)
  if lines > MOST_LINES_OF_A_FILE:
    yield 1, f"{lines} lines of code"
  for node in source.nodes:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      lines = sum(map(source.num_code_lines, node.body))
      if lines > MOST_LINES_OF_A_FUNCTION:
        yield node.lineno, f"{node.name} has {lines} lines of code"


CHECKS = {
  "imports run one way": (imports_against_the_order, "from jax_robust import main"),
  "the core stands on little": (foreign_to_the_core, "import flax"),
  "heavy packages have one place": (heavy_packages_out_of_place, "import orbax.checkpoint"),
  "heavy packages are imported late": (heavy_packages_out_of_place, "import PIL.Image"),
  "nothing is unpickled": (unpickled_or_evaluated, "np.load(file, allow_pickle=yes)"),
  "nothing is evaluated": (unpickled_or_evaluated, "eval('1')"),
  "fragile parts of JAX have one place": (fragile_parts_of_jax, "from jax._src import core"),
  "functions stay small": (too_long, "def f():\n" + 51 * "  x = 1\n"),
  "files stay small": (too_long, 301 * "x = 1\n"),
}
"""Each with a file that it must find fault with."""


@pytest.mark.parametrize("name", CHECKS)
def test_rule(name):
  check, offender = CHECKS[name]
  assert list(check(Source("losses", offender))), "the check is blind"
  found = [
    f"jax_robust/{source.place}:{line}: {what}"
    for source in package()
    for line, what in check(source)
  ]
  assert not found, "\n".join(["", *found])


def test_blank_lines_comments_and_docstrings_are_no_code():
  source = Source("losses", '"""Docs."""\n\nX = 1\n"""Its docs."""\n# why\ndef f():\n  "Docs."\n')
  assert source.num_code_lines(source.tree) == 2


def test_every_room_is_in_the_table():
  assert {source.room for source in package()} == set(MAY_IMPORT)
