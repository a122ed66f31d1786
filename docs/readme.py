"""A Sphinx extension: some pages are files from elsewhere in the repository, such as the README."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = {"start": "README.md", "changelog": "CHANGELOG.md", "clusters": "launch/README.md"}


def setup(app):
  """Called by Sphinx."""
  app.connect("source-read", _read)
  app.connect("env-before-read-docs", lambda app, env, names: names.extend(PAGES))
  return {"parallel_read_safe": True}


def _read(app, name, source):
  """Puts the text of a file of the repository in place of a page's own."""
  if name in PAGES:
    source[0] = re.sub(r"\[([^]]+)\]\(([^)#]+)(#[^)]*)?\)", _link, (ROOT / PAGES[name]).read_text())


def _link(found):
  """A link between pages as the site has it; one to a file that is no page is its text alone."""
  text, target, place = found.groups()
  if (ROOT / target).exists():
    inside = target.startswith("docs/")
    return f"[{text}]({target.removeprefix('docs/')}{place or ''})" if inside else text
  return found[0]
