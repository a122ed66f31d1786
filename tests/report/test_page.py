"""The page of a report: whatever runs say is text, the same of the same runs, and it is whole."""

import base64
import hashlib
import html.parser
import os
import re
import shutil

import made_runs
import pytest

from jax_robust.report import html as elements
from jax_robust.report.html import element, raw

HOSTILE = """<script>alert(1)</script> & "quotes' </script><img src=x onerror=y> ünï.cødé $x$"""


class Page(html.parser.HTMLParser):
  """What a browser makes of a page: its elements, and whether each is closed."""

  VOID = ("meta", "img", "input", "wbr")

  def __init__(self, text):
    super().__init__()
    self.found, self.open, self.text, self.scripts = [], [], "", []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.found.append((tag, dict(attributes)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] == "script":
      self.scripts.append(data)
    self.text += data

  def all(self, tag):
    return [attributes for name, attributes in self.found if name == tag]


def test_everything_is_escaped(runs, report):
  name = HOSTILE.replace("/", "∕")  # which no name of a folder holds
  folder = made_runs.make_run(
    runs / name, objective__name=HOSTILE, data__labels=HOSTILE, model__name="</style>",
    start={"ended": HOSTILE, "seconds": 1.0},
  )  # fmt: skip
  made_runs.make_run(runs / "other")
  made_runs.write_result(folder, "autoattack", made_runs.autoattack(0.4, 0.2, warnings=[HOSTILE]))
  study = {"study": HOSTILE, "claim": HOSTILE, "answer": HOSTILE, "num_seeds": 1, "date": HOSTILE}
  study |= {"ours": {HOSTILE: HOSTILE}, "published": {}, "seconds": 1.0, "hardware": HOSTILE}
  made_runs.write_result(folder, "study", study)
  made_runs.write_result(folder, "own", {HOSTILE: HOSTILE}, kind="own")
  (folder / "results" / f"{name[:60]}.png").write_bytes(made_runs.PNG)
  (runs / f"broken {name}" / "results").mkdir(parents=True)
  result, text = report(title=HOSTILE)
  page = Page(text)
  assert result["table"]["run"] == [name, "other"]
  assert len(page.scripts) == 1 and "alert" not in page.scripts[0]
  assert {tag for tag, _ in page.found} & {"iframe", "object", "link", "base", "form"} == set()
  assert not [attributes for attributes in page.all("img") if attributes["src"] == "x"]
  assert not any(key.startswith("on") for _, attributes in page.found for key in attributes)
  assert page.text.count(HOSTILE) >= 8 and page.text.count(name) >= 3
  assert "</style>" in page.text


def test_it_asks_no_network(several, report):
  page = Page(report()[1])
  for tag, attributes in page.found:
    for key in ("src", "href", "data", "action", "srcset"):
      if key in attributes:
        assert attributes[key].startswith(("data:image/png;base64,", "#")), (tag, attributes)
  policy = page.all("meta")[1]["content"]
  digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
  assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
  assert "url(" not in report()[1].split("</style>")[0] and "http" not in page.scripts[0]


def test_the_same_runs_give_the_same_page(several, report, tmp_path):
  first = report()[1]
  assert report(place="ELSEWHERE")[1] == first
  shutil.copytree(tmp_path / "RUNS", tmp_path / "moved" / "RUNS")
  for path in (tmp_path / "moved").rglob("*"):
    os.utime(path, (0, 0))
  assert report("moved/RUNS/*")[1] == first


def test_the_table_can_be_sorted_and_read(several, report):
  page = Page(report()[1])
  heads = [
    attributes["data-column"] for attributes in page.all("th") if "data-column" in attributes
  ]
  assert heads[:3] == ["run", "status", "method"] and heads[-1] == "command"
  cells = [each for each in page.all("td") if each.get("data-column") == "clean"]
  assert [each.get("data-value") for each in cells] == ["0.5", "0.5", "0.48", None, None, None]
  assert all("data-number" in each for each in cells if "data-value" in each)
  links = {each["href"].removeprefix("#") for each in page.all("a")}
  sections = {each["id"] for each in page.all("details") if "id" in each}
  assert links == sections and len(links) == 6
  rows = [each["data-section"] for each in page.all("tr") if "data-section" in each]
  assert set(rows) == sections


def test_numbers_are_shown_as_the_field_does(several, report):
  text = report()[1]
  for part in ("48.0", "[25.0, 35.0]", "200 images", "0.743", "[0.723, 0.764]", "0:01:15"):
    assert part in text, part
  assert "2026-11-27<" in text and "made --workdir=beta6" in text


def test_pictures_and_curves_are_inside(several, report, tmp_path):
  (several / "beta1" / "results" / "evaluate.png").write_bytes(made_runs.PNG)
  images = Page(report()[1]).all("img")
  titles = ["training loss", "clean, held-out images", "robust, held-out images", "evaluate"]
  assert [each["alt"] for each in images] == titles
  drawn = (tmp_path / "REPORT" / "results" / "loss.png").read_bytes()
  assert base64.b64decode(images[0]["src"].partition(",")[2]) == drawn
  assert len(Page(report(pictures=False)[1]).all("img")) == 3


def test_only_keys_in_which_runs_differ_are_listed(several, report):
  text = report("RUNS/beta*")[1]
  assert text.count("objective.beta") == 2 and "optimizer.momentum" not in text
  assert len(re.findall(r"<h3>Hashes", text)) == 2 and made_runs.SHA in text


@pytest.mark.parametrize("count, is_open", [(8, True), (9, False)])
def test_many_sections_are_folded(runs, report, count, is_open):
  for number in range(count):
    made_runs.make_run(runs / f"run{number}", seed=number)
  sections = [each for each in Page(report()[1]).all("details") if each.get("class") == "run"]
  assert len(sections) == count and all(("open" in each) == is_open for each in sections)


def test_a_script_that_would_end_itself_is_refused():
  with pytest.raises(ValueError, match="a script that holds '</' would end there"):
    raw("script", "x = '</script>'")
  assert element("p", [element("b", "x"), "<"]) == "<p><b>x</b>&lt;</p>"
  assert elements.joined("<", element("br")) == "&lt;<br>"
