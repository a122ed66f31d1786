"""HTML elements as functions: whatever is not an element itself is escaped."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

_VOID = ("img", "input", "meta", "br", "wbr")


class Element(str):
  """Text that is HTML already: made by `element`, and by nothing that a user writes."""

  __slots__ = ()


Child: TypeAlias = "str | Iterable[Child]"


def element(tag: str, /, *children: Child, **attributes: Any) -> Element:
  """An element; children and attributes are escaped, but for children that are elements.

  Args:
    tag: of the element.
    *children: texts, elements, or iterables of these.
    **attributes: by name, a final `_` left out and others written as `-`; True stands for an
      attribute without a value, None and False for none.

  >>> element("a", "1 < 2", element("b", "&"), class_="x\\"y", data_value=3, hidden=True)
  '<a class="x&quot;y" data-value="3" hidden>1 &lt; 2<b>&amp;</b></a>'
  """
  head = "".join(
    f" {_attribute(key)}" + ("" if value is True else f'="{html.escape(str(value))}"')
    for key, value in attributes.items()
    if value is not None and value is not False
  )
  if tag in _VOID:
    return Element(f"<{tag}{head}>")
  return Element(f"<{tag}{head}>{joined(*children)}</{tag}>")


def joined(*children: Child) -> Element:
  """Children one after the other, escaped as those of an element."""
  return Element("".join(map(_escaped, children)))


def raw(name: str, text: str) -> Element:
  """A `style` or `script` of ours.

  Raises:
    ValueError: the text would end the element.
  """
  if "</" in text:
    raise ValueError(f"a {name} that holds '</' would end there")
  return Element(f"<{name}>{text}</{name}>")


def table(head: Sequence[str], rows: Iterable[Sequence[Child]], **attributes: Any) -> Element:
  """A plain table in a box that scrolls."""
  return element(
    "div",
    element(
      "table",
      element("thead", element("tr", [element("th", name, scope="col") for name in head])),
      element("tbody", [element("tr", [element("td", cell) for cell in row]) for row in rows]),
      **attributes,
    ),
    class_="scroll",
  )


def picture(png: bytes, title: str) -> Element:
  """A PNG inside the page, with its title below."""
  uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
  return element(
    "figure", element("img", src=uri, alt=title), element("figcaption", title), class_="picture"
  )


def _attribute(key: str) -> str:
  """An attribute's name as HTML has it."""
  return key.rstrip("_").replace("_", "-")


def _escaped(child: Child) -> str:
  """A child as HTML."""
  if isinstance(child, Element):
    return child
  if isinstance(child, str):
    return html.escape(child)
  return "".join(map(_escaped, child))
