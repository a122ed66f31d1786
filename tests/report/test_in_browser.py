"""The page in a browser: it sorts by the address and by clicks, filters, and fits a phone."""

import html.parser
import re
import shutil
import subprocess

import made_runs
import pytest

pytestmark = pytest.mark.slow

FLAGS = (
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--virtual-time-budget=5000", "--dump-dom",
)  # fmt: skip
ORDER = {
  "ascending": ["beta6", "alarmed", "beta1", "failed", "killed", "preempted"],
  "descending": ["alarmed", "beta1", "beta6", "failed", "killed", "preempted"],
}
"""By the accuracy without an attack: runs that have none come last, either way."""

DRIVER = """<script>
const seen = [];
const head = document.querySelector('th[data-column="clean"]');
for (let i = 0; i < 2; i++) {
  head.querySelector("button").click();
  seen.push([head.getAttribute("aria-sort"), location.hash]);
}
const box = document.getElementById("filter");
box.value = "BETA 0.22";
box.dispatchEvent(new Event("input"));
document.querySelector("button.copy").click();
seen.push([document.documentElement.scrollWidth <= innerWidth, innerWidth]);
document.title = JSON.stringify(seen);
</script>"""


class Rows(html.parser.HTMLParser):
  """The rows of the table that a browser shows, and the title."""

  def __init__(self, text):
    super().__init__()
    self.names, self.hidden_sections, self.title, self._in_title = [], [], "", False
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    named = dict(attributes)
    if tag == "tr" and "data-section" in named:
      self._hidden = "hidden" in named
    if tag == "td" and named.get("data-column") == "run" and not self._hidden:
      self.names.append(named["data-value"])
    if tag == "details" and "hidden" in named:
      self.hidden_sections.append(named["id"])
    self._in_title = tag == "title"

  def handle_endtag(self, tag):
    self._in_title = False

  def handle_data(self, data):
    self.title += data if self._in_title else ""


@pytest.fixture
def browse(tmp_path):
  """`browse(path, hash, width) -> Rows`: what Chromium makes of a page; skipped without one."""
  program = shutil.which("chromium") or shutil.which("google-chrome")
  if program is None:
    pytest.skip("no chromium and no google-chrome: the page of a report is not opened in a browser")

  def browse(path, address="", width=1280):
    command = [program, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", f"{path.as_uri()}{address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Content Security Policy" not in done.stderr, done.stderr
    return Rows(done.stdout)

  return browse


@pytest.fixture
def page(several, report, tmp_path):
  """A page over six runs."""
  (several / "beta1" / "results" / "evaluate.png").write_bytes(made_runs.PNG)
  report()
  return tmp_path / "REPORT" / "results" / "report.html"


@pytest.mark.parametrize("order", ORDER)
def test_the_address_sorts(browse, page, order):
  assert browse(page).names == sorted(ORDER[order])
  assert browse(page, f"#sort=clean&order={order}").names == ORDER[order]


def test_the_address_filters_the_rows_and_their_sections(browse, page):
  found = browse(page, "#sort=AutoAttack&filter=trades+beta")
  assert found.names == ["beta6", "beta1"] and len(found.hidden_sections) == 4
  assert browse(page, "#sort=no_such_column").names == sorted(ORDER["ascending"])


@pytest.mark.parametrize("width", [1280, 500])
def test_clicks_sort_and_the_page_is_no_wider_than_its_window(browse, page, width):
  """500 is the least that Chromium's window may have."""
  text = re.sub('<meta http-equiv="[^>]*>', "", page.read_text())
  driven = page.with_name("driven.html")
  driven.write_text(text.replace("</body>", f"{DRIVER}</body>"))
  found = browse(driven, width=width)
  assert found.title == (
    '[["ascending","#sort=clean&order=ascending"],["descending","#sort=clean&order=descending"],'
    f"[true,{width}]]"
  ).replace("&order=ascending", "")
  assert found.names == ["beta6"]
