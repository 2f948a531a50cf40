"""Pages, read by Python's HTML parser: what is text stays text, and the policy allows what is there and no more."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.inspect.page.elements import figure, quotation, table
from pipeline.inspect.page.plots import COLOURS, S1, svg
from pipeline.inspect.page.shell import Section, page
from pipeline.inspect.page.text import attribute, isolated, shown, shown_token
from pipeline.inspect.page.tokens import ENTROPIES, RANKS, ShownToken, band, panel, switch, token_view

HOSTILE = '</style></script><script>alert(1)</script><b onclick="x">\x00\u202e\u2066\ud800\u200b\ufeff&amp;\'"`{{7*7}}'


class Read(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Read:
    found = Read()
    found.feed(text)
    return found


def draw(axes: Any) -> None:
    axes.bar([0, 1], [2, 3], color=S1, label="$x_1$ <b>")
    axes.legend()


def test_text_of_any_kind_makes_no_markup_and_hides_nothing() -> None:
    for made in (shown(HOSTILE), shown_token(HOSTILE), isolated(HOSTILE), quotation(HOSTILE, 1000)):
        found = read(made)
        assert {tag for tag, _ in found.tags} <= {"span", "bdi", "p"}
        assert "<script>alert(1)</script>" in found.text
        for code in ("U+0000", "U+202E", "U+2066", "U+D800", "U+200B", "U+FEFF"):
            assert code in found.text
        made.encode()
    assert read(f'<a title="{attribute(HOSTILE)}">').tags[0][1].keys() == {"title"}


def test_what_is_cut_off_is_counted() -> None:
    assert read(shown("a" * 1500, 1000)).text == "a" * 1000 + " … 500 more characters"


def test_emoji_and_other_scripts_stay_as_they_are() -> None:
    assert shown("雨 👩‍🌾 שלום é") == "雨 👩‍🌾 שלום é"


def test_the_policy_names_the_style_and_the_script_by_their_digests_and_nothing_else_is_needed() -> None:
    view = token_view([ShownToken(HOSTILE, 5, -1.0, 2.0, 3, ((HOSTILE, 5, -1.0),))], "one", HOSTILE)
    plot = figure("p", svg(draw, "p", HOSTILE), numbers=table(["a"], [[HOSTILE]]))
    body = switch() + view + panel() + plot
    text = page(HOSTILE, "", [Section("s", "Title", body)]).decode()
    found = read(text)
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    for kind in ("style", "script"):
        inner = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode()
        assert len(inner) == 1 and f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    for _, attributes in found.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert not (attributes.get("src") or "")
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_a_plot_is_svg_that_xml_reads_with_text_and_the_colours_of_the_page() -> None:
    one, other = svg(draw, "a", "what"), svg(draw, "b", "what")
    root = ElementTree.fromstring(one)
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "$x_1$ <b>" in texts, "text is text, not mathematics"
    assert "var(--s1)" in one and not any(colour in one for colour in COLOURS.values())
    assert "style" not in one and "<!--" not in one and "date" not in one.lower()
    assert one == svg(draw, "a", "what")
    ids = [re.findall(r'\bid="([^"]*)"', text) for text in (one, other)]
    assert not set(ids[0]) & set(ids[1]) and len(ids[0]) == len(set(ids[0]))
    assert set(re.findall(r"(?:#)([-\w]+)[\")]", one)) <= set(ids[0]), "every reference is to an id of this plot"


@pytest.mark.parametrize(
    ("value", "bounds", "expected"), [(1, RANKS, 0), (2, RANKS, 1), (1001, RANKS, 4), (9.0, ENTROPIES, 4)]
)
def test_bands(value: float, bounds: tuple[float, ...], expected: int) -> None:
    assert band(value, bounds) == expected


def test_a_token_without_statistics_is_shown_and_a_colouring_without_values_is_not_offered() -> None:
    view = token_view([ShownToken("a", 1)], "x", "y")
    assert 'class="t"' in view and token_view([], "x", "y") == ""
    assert "by-rank" not in switch({"entropy"}) and 'id="by-entropy" value="entropy" checked' in switch({"entropy"})
    assert switch(()) == ""
