"""A page that needs nothing but itself: sections of text, tables and pictures, as one HTML file.

    Section (title, blocks) -> a tree of elements -> text

The tree is written by a serialiser, so no name, path or message can become markup. Pictures are data in the page, each
once for a light and once for a dark screen. There is no script, and a policy in the head forbids whatever is not here.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, tostring  # writes only; nothing is parsed

from reid.report.plates import Picture
from reid.report.rendering import DARK, LIGHT, Format, Rendered, rendered
from reid.report.tables import Table

DARK_SCREEN = "screen and (prefers-color-scheme: dark)"
_MIME = {"svg": "image/svg+xml", "jpg": "image/jpeg"}


class Section(NamedTuple):
    """`anchor` is its address in the page."""

    anchor: str
    title: str
    blocks: Sequence[Element]


def element(tag: str, *content: "Element | str", **attributes: str) -> Element:
    """An element with text and children in their order; an attribute may end in `_` where Python has the word."""
    made = Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for piece in content:
        if not isinstance(piece, str):
            made.append(piece)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + piece
        else:
            made.text = (made.text or "") + piece
    return made


def paragraph(*content: Element | str) -> Element:
    return element("p", *content)


def note(label: str, text: str) -> Element:
    """What a reader must not overlook."""
    return element("p", element("b", label), " ", text, class_="note")


def tiles(numbers: Sequence[tuple[str, str, str]]) -> Element:
    """Headline numbers: what it is, the number, and what to hold it against."""
    return element(
        "div",
        *(
            element(
                "div",
                element("span", name, class_="name"),
                element("span", value, class_="value"),
                element("span", beside, class_="beside"),
                class_="tile",
            )
            for name, value, beside in numbers
        ),
        class_="tiles",
    )


def table(given: Table, kind: str = "numbers") -> Element:
    """A table with its title above and its notes below. `kind` is `numbers`, or `words`, which begin at the left."""
    head = element("tr", *(element("th", column, scope="col") for column in given.columns))
    body = [
        element(
            "tr",
            element("th", row[0].strip(), scope="row"),
            *(
                element("td", element("b", cell) if (i, j) in given.bold else cell)
                for j, cell in enumerate(row[1:], start=1)
            ),
            **({"class_": "faint"} if i in given.faint else {}),
        )
        for i, row in enumerate(given.rows)
    ]
    title = [element("caption", given.title)] if given.title else []
    drawn = element("table", *title, element("thead", head), element("tbody", *body), class_=kind)
    notes = [element("p", text, class_="small") for text in given.notes]
    return element("div", element("div", drawn, class_="wide"), *notes)


def columns(*blocks: Element) -> Element:
    """Blocks beside each other, where the page is wide enough."""
    return element("div", *blocks, class_="columns")


def figure(picture: Picture, number: int, files: str) -> Element:
    """A picture with its number and caption, and the names of its files beside the page."""
    kind: Format = "svg" if picture.is_chart else "jpg"
    light, dark = (rendered(picture.draw, kind, theme) for theme in (LIGHT, DARK))
    size = {"width": str(light.width), "height": str(light.height)}
    shown = element(
        "picture",
        element("source", media=DARK_SCREEN, srcset=_address(dark, kind)),
        element("img", src=_address(light, kind), alt=f"Figure {number}: {picture.caption}", **size),
    )
    words = element(
        "figcaption",
        element("b", f"Figure {number}."),
        f" {picture.caption} ",
        element("span", files, class_="files"),
    )
    return element("figure", shown, words)


def document(title: str, lead: str, sections: Sequence[Section], warning: str = "") -> str:
    """The page. `warning` stands in its head."""
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(STYLE)}'; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", STYLE),
    )
    links = [element("li", element("a", part.title, href=f"#{part.anchor}")) for part in sections]
    parts = [element("section", element("h2", part.title), *part.blocks, id=part.anchor) for part in sections]
    top = element("header", element("h1", title), element("p", lead, class_="lead"))
    if warning:
        top.append(note("Synthetic data.", warning))
    body = element(
        "body",
        element("nav", element("ol", *links), **{"aria-label": "Contents"}),
        element("main", top, *parts),
    )
    page = element("html", head, body, lang="en")
    return "<!doctype html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def _address(picture: Rendered, kind: str) -> str:
    return f"data:{_MIME[kind]};base64,{base64.b64encode(picture.data).decode()}"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


STYLE = f"""
:root {{
  color-scheme: light dark;
  --paper: {LIGHT.paper}; --ink: {LIGHT.ink}; --quiet: #59616c; --line: #dde1e6; --tint: #f4f6f8;
  --accent: #1f67ab; --warn: #fff5dc; --warn-ink: #5e4200; --warn-line: #e3b341;
}}
@media {DARK_SCREEN} {{
  :root {{
    --paper: {DARK.paper}; --ink: {DARK.ink}; --quiet: #9aa3ae; --line: #323942; --tint: #1f252c;
    --accent: #6cb2f0; --warn: #33280f; --warn-ink: #f0d491; --warn-line: #8a6a1f;
  }}
}}
* {{ box-sizing: border-box; }}
html {{ scroll-behavior: smooth; scroll-padding-top: 1rem; }}
body {{
  margin: 0 auto; max-width: 1340px; padding: 0 1.5rem 4rem; display: grid; gap: 0 2.5rem;
  grid-template-columns: 13rem minmax(0, 1fr); background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}}
nav {{ position: sticky; top: 0; align-self: start; max-height: 100vh; overflow: auto; padding: 3.2rem 0 1rem; }}
nav ol {{ list-style: none; margin: 0; padding: 0; border-left: 2px solid var(--line); }}
nav a {{ display: block; padding: .28rem .9rem; color: var(--quiet); font-size: .9rem; text-decoration: none; }}
nav a:hover, nav a:focus-visible {{ color: var(--accent); }}
h1 {{ font-size: 2rem; line-height: 1.2; margin: 2.8rem 0 .3rem; letter-spacing: -.01em; }}
h2 {{ font-size: 1.3rem; margin: 3rem 0 .8rem; padding-top: 1rem; border-top: 1px solid var(--line); }}
p {{ margin: .6rem 0; max-width: 75ch; }}
.lead {{ color: var(--quiet); font-size: 1.05rem; }}
.small, figcaption {{ color: var(--quiet); font-size: .875rem; }}
.note {{
  background: var(--warn); color: var(--warn-ink); border-left: 4px solid var(--warn-line);
  padding: .6rem .9rem; border-radius: 0 6px 6px 0; white-space: pre-line;
}}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }}
.tile {{ background: var(--tint); border-radius: 10px; padding: .9rem 1.1rem; display: grid; }}
.tile .name {{ font-size: .85rem; color: var(--quiet); }}
.tile .value {{ font-size: 1.9rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }}
.tile .beside {{ font-size: .82rem; color: var(--quiet); }}
.wide {{ overflow-x: auto; margin: 1rem 0 .4rem; }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: .4rem; }}
th, td {{ padding: .3rem .8rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }}
th:first-child, td:first-child {{ padding-left: 0; text-align: left; }}
thead th {{ color: var(--quiet); font-weight: 600; white-space: nowrap; border-bottom: 2px solid var(--line); }}
tbody th {{ font-weight: 400; white-space: nowrap; }}
.words th, .words td {{ text-align: left; }}
.words td {{ overflow-wrap: anywhere; padding-right: .4rem; }}
.columns {{ display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start; }}
.columns > * {{ min-width: 0; }}
.faint th, .faint td {{ color: var(--quiet); }}
.faint th {{ padding-left: 1rem; }}
figure {{ margin: 1.4rem 0 2rem; }}
img {{ max-width: 100%; height: auto; display: block; }}
figcaption {{ max-width: 85ch; margin-top: .5rem; }}
figcaption b {{ color: var(--ink); }}
.files {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .78rem; }}
@media (max-width: 900px) {{
  body {{ display: block; padding: 0 1rem 3rem; }}
  nav {{ position: static; max-height: none; padding: 1rem 0 0; }}
  h1 {{ margin-top: 1.2rem; }}
}}
@media print {{
  body {{ display: block; max-width: none; padding: 0; font-size: 10.5pt; }}
  nav {{ display: none; }}
  h2 {{ break-after: avoid; }}
  figure, .tile, table {{ break-inside: avoid; }}
  img {{ max-height: 22cm; width: auto; }}
}}
"""
