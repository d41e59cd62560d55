"""reid/report/page.py: a page that loads nothing, where no text becomes markup, and whose policy allows just itself."""

import base64
import hashlib
import re
from xml.etree.ElementTree import tostring

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from reid.report.page import Section, columns, document, element, figure, note, paragraph, table, tiles
from reid.report.plates import Picture
from reid.report.tables import Table

HOSTILE = "</title><script>alert('1')</script><img src=x onerror=alert(2)>&lt;\"'"


def draw() -> Figure:
    shown = Figure(figsize=(2, 1))
    shown.subplots().plot([0, 1])
    return shown


def page(text: str = "some text", title: str = "a title") -> str:
    picture = Picture("a_picture", draw, text, is_chart=True)
    photo = picture._replace(is_chart=False)
    shown = Table(text, (text, "b"), ((text, text), ("x", "y")), (text,), frozenset([1]), frozenset([(0, 1)]))
    blocks = [
        paragraph(text),
        note(text, text),
        tiles([(text, text, text)]),
        columns(table(shown), table(shown, "words")),
        figure(picture, 1, text),
        figure(photo, 2, text),
    ]
    return document(title, text, [Section("one", text, blocks)], warning=text)


def test_a_page_loads_nothing_and_runs_nothing(parse):
    found = parse(page())
    names = {name for name, _ in found.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for name, attributes in found.tags:
        for key in ("src", "srcset"):
            assert attributes.get(key, "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
        assert "style" not in attributes
        assert not [key for key in attributes if key.startswith("on")]
        if name != "meta":
            assert not [
                value for value in attributes.values() if "//" in value and not value.startswith("data:")
            ]
    assert "url(" not in found.style
    assert "@import" not in found.style


def test_the_policy_forbids_all_but_the_style_and_the_pictures_of_the_page(parse):
    found = parse(page())
    (policy,) = [each["content"] for each in found.all("meta") if "http-equiv" in each]
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    assert [part.strip() for part in policy.split(";")] == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    first = [
        name for name, attributes in found.tags if name in {"style", "body"} or "http-equiv" in attributes
    ]
    assert first[0] == "meta"


def test_no_text_becomes_markup(parse):
    hostile, harmless = parse(page(HOSTILE, HOSTILE)), parse(page())
    assert [name for name, _ in hostile.tags] == [name for name, _ in harmless.tags]
    assert hostile.text.count(HOSTILE) >= 12
    assert all(HOSTILE in image["alt"] for image in hostile.all("img"))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00")))
def test_any_text_reads_back_as_itself(parse, text):
    made = element("p", "before ", element("b", text), text, class_="x", title=text)
    found = parse(tostring(made, encoding="unicode", method="html"))
    assert found.text == f"before {text}{text}"
    assert found.tags == [("p", {"class": "x", "title": text}), ("b", {})]


def test_pictures_are_whole_for_light_and_dark_and_have_words(parse):
    found = parse(page("Some words."))
    assert [image["alt"] for image in found.all("img")] == ["Figure 1: Some words.", "Figure 2: Some words."]
    for source, image, magic in zip(
        found.all("source"), found.all("img"), (b"<?xml", b"\xff\xd8"), strict=True
    ):
        light, dark = (
            base64.b64decode(address.partition(",")[2], validate=True)
            for address in (image["src"], source["srcset"])
        )
        assert light.startswith(magic)
        assert dark.startswith(magic)
        assert light != dark
        assert source["media"] == "screen and (prefers-color-scheme: dark)"
        assert (image["width"], image["height"]) == ("192", "96")


def test_contents_lead_to_every_section(parse):
    found = parse(document("t", "l", [Section("one", "First", []), Section("two", "Second", [])]))
    assert [link["href"] for link in found.all("a")] == ["#one", "#two"]
    assert [part["id"] for part in found.all("section")] == ["one", "two"]
    assert "Synthetic" not in found.text


def test_a_table_has_its_head_its_bold_cells_and_its_notes():
    shown = Table(
        "title", ("", "a"), (("row", "1"), ("  below", "2")), ("a note",), frozenset([1]), frozenset([(0, 1)])
    )
    text = tostring(table(shown), encoding="unicode", method="html")
    assert '<tr><th scope="row">row</th><td><b>1</b></td></tr>' in text
    assert '<tr class="faint"><th scope="row">below</th><td>2</td></tr>' in text
    assert re.search(r"<caption>title</caption>.*<p class=\"small\">a note</p>", text)
    assert "caption" not in tostring(table(Table("", ("x",), ())), encoding="unicode", method="html")


@pytest.mark.parametrize("theme", ["LIGHT", "DARK"])
def test_text_can_be_read_on_its_ground(parse, theme):
    style = parse(page()).style
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[theme == "DARK"]))

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for text, ground in (
        ("ink", "paper"),
        ("quiet", "paper"),
        ("quiet", "tint"),
        ("warn-ink", "warn"),
        ("accent", "paper"),
    ):
        assert contrast(colours[text], colours[ground]) >= 4.5
