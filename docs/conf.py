"""How Sphinx builds the documentation: `sphinx-build -W docs build/docs`."""

import importlib.metadata
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent))

project = "jax_robust"
author = "the jax_robust developers"
version = release = importlib.metadata.version("jax_robust")

extensions = [
  "docstrings",  # these three are of this folder
  "readme",
  "result_tables",
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.mathjax",
]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with what they found; a test runs them

html_theme = "sphinx_book_theme"
html_title = "jax_robust"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and units, which types do not
