"""Runs the notebooks, and writes what they found into them: `python docs/run_notebooks.py`.

Needs `jupyter` (the extra `docs`). What goes to stderr, such as progress, is left out, and so are
times.
"""

import pathlib
import sys
from typing import Any

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent / "notebooks"


def run(path: pathlib.Path) -> Any:
  """The notebook with new outputs.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell has failed.
  """
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=1200, record_timing=False, resources={"metadata": {"path": str(path.parent)}}
  )
  client.execute()
  for cell in notebook.cells:
    if cell.cell_type == "code":
      cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
  notebook.metadata.get("language_info", {}).pop("version", None)
  return notebook


if __name__ == "__main__":
  for file in map(pathlib.Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
    nbformat.write(run(file), file)
