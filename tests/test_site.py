"""The documentation site: built without a warning, all of its links and docstrings in order."""

import html.parser
import json
import re
import subprocess
import sys
import urllib.parse

import pytest

from jax_robust.runs import result_kinds

pytestmark = pytest.mark.thorough

PAGES = ("index", "start", "changelog", "evaluation", "smoothing", "results", "reference/attacks")


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory):
  """The folder of a site that was built with warnings as errors, without a network."""
  pytest.importorskip("sphinx_book_theme", reason="the extra `docs` is not installed")
  folder = tmp_path_factory.mktemp("site")
  command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", folder / "doctrees"]
  done = subprocess.run(
    [*command, repository / "docs", folder / "html"], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return folder / "html"


class Page(html.parser.HTMLParser):
  """The links, pictures and anchors of a page."""

  def __init__(self, path):
    super().__init__()
    self.targets, self.anchors, self.text = [], set(), ""
    self.feed(path.read_text())

  def handle_starttag(self, tag, attributes):
    named = dict(attributes)
    self.anchors |= {named[key] for key in ("id", "name") if named.get(key)}
    self.targets += [named[key] for key in ("href", "src") if named.get(key)]

  def handle_data(self, data):
    self.text += data


def test_no_link_within_the_site_is_broken(site):
  pages = {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}
  assert {site / f"{name}.html" for name in PAGES} <= pages.keys()
  broken, count = [], 0
  for path, page in pages.items():
    for target in page.targets:
      link = urllib.parse.urlsplit(target)
      if link.scheme or link.netloc or target == "#":
        continue
      there = (path.parent / urllib.parse.unquote(link.path)).resolve() if link.path else path
      count += 1
      if not there.exists() or (
        link.fragment and there in pages and link.fragment not in pages[there].anchors
      ):
        broken.append(f"{path.name}: {target}")
  assert count > 500 and not broken, broken[:20]


def test_the_reference_has_what_docstrings_say(site):
  page = Page(site / "reference" / "attacks.html")
  for wanted in ("apgd", "num_restarts", "Guarantees", "result_is_in_ball_and_box", "Croce"):
    assert wanted in page.text, wanted
  assert "Alias for field number" not in page.text


def test_the_page_of_result_files_has_the_table_of_each_kind(site):
  text = Page(site / "reference" / "result_files.html").text
  for kind, each in result_kinds.KINDS.items():
    assert f"{kind} (version {each.version})" in text and next(iter(each.fields)) in text


def test_the_readme_is_the_first_page(site):
  page = Page(site / "start.html")
  assert "Certify a model of your own" in page.text and "evaluation.html" in page.targets


@pytest.fixture
def to_rst(repository, monkeypatch):
  """The function that reads a docstring."""
  monkeypatch.syspath_prepend(str(repository / "docs"))
  import docstrings

  return lambda text: "\n".join(docstrings.to_rst(text.split("\n"))).strip()


@pytest.mark.parametrize(
  "text, wanted",
  [
    ("One `x`s of |y|* and a_b.", r"One ``x``\ s of \|y\|\* and a\_b."),
    (
      "Args:\n  x, y: what\n    there is.\n  z: more.",
      "**Args**\n\n``x``, ``y``\n  what there is.\n\n``z``\n  more.",
    ),
    ("Args: those of `f`, and\n  x: more.", "**Args**\n\nthose of ``f``, and\n\n``x``\n  more."),
    ("Returns:\n  The loss: a number.", "**Returns**\n\nThe loss: a number."),
    ("Reference: Croce, 2020.\n  Appendix.", "**Reference**\n\nCroce, 2020. Appendix."),
    ("Guarantees:\n  `is_in`: it is.\n\n  More.", "**Guarantees**\n\n``is_in``\n  it is.\n\nMore."),
    ("Text.\n\n>>> 1 + `1`\n2", "Text.\n\n>>> 1 + `1`\n2"),
    ("So:\n\n  a = `b`\n    c", "So:\n\n::\n\n    a = `b`\n      c"),
    ("- one\n  two\n- `three`", "- one two\n- ``three``"),
    ("An odd ` mark.", r"An odd \` mark."),
  ],
)  # fmt: skip
def test_a_docstring_as_restructured_text(to_rst, text, wanted):
  assert to_rst(text) == wanted


def test_every_page_is_in_the_contents(repository):
  """A new page of the docs is listed where a reader finds it."""
  docs = repository / "docs"
  listed = [word.strip("<>") for word in (docs / "index.md").read_text().split()]
  files = [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]
  pages = (path.relative_to(docs).with_suffix("").as_posix() for path in files)
  assert {page for page in pages if page != "index"} <= {*listed}


NOTEBOOKS = ("train", "your_model")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_stands_as_it_was_run(repository, name):
  """Whole, in order, without an error, with pictures, and with no path of a machine."""
  path = repository / "docs" / "notebooks" / f"{name}.ipynb"
  assert "/home/" not in path.read_text() and "/work/" not in path.read_text()
  cells = [each for each in json.loads(path.read_text())["cells"] if each["cell_type"] == "code"]
  assert [each["execution_count"] for each in cells] == [*range(1, len(cells) + 1)]
  kinds = [output["output_type"] for each in cells for output in each["outputs"]]
  assert "error" not in kinds
  pictures = [o for each in cells for o in each["outputs"] if "image/png" in o.get("data", {})]
  assert len(pictures) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(repository, name, monkeypatch):
  pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
  monkeypatch.syspath_prepend(str(repository / "docs"))
  import run_notebooks

  path = repository / "docs" / "notebooks" / f"{name}.ipynb"
  before = json.loads(path.read_text())["cells"]
  assert _kinds(run_notebooks.run(path).cells) == _kinds(before)


def _kinds(cells):
  """Of each cell the kinds of its outputs; into how many pieces a text falls is chance."""
  each = [[output["output_type"] for output in cell.get("outputs", ())] for cell in cells]
  return [re.sub("(stream )+", "stream ", "".join(f"{kind} " for kind in kinds)) for kinds in each]
