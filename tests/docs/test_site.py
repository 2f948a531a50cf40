"""The site is built without a broken link, loads nothing from elsewhere, and has the Markdown of every page."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs import build
from tests.docs.document import PAGES, ROOT


class Page(HTMLParser):
    """What a page loads, where it links to, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.styles = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.add(given.get("id", ""))
        self.styles += given.get("style", "")
        self.loads += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]
        if "href" in given:
            (self.links if tag == "a" or given.get("rel") in ("prev", "next", "canonical") else self.loads).append(
                given["href"]
            )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build.build(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def html(site: Path) -> dict[Path, Page]:
    """Every page but 404.html, whose links are those of a server's root."""
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_there(site: Path, html: dict[Path, Page]) -> None:
    assert {str(path.relative_to(site).with_suffix(".md")) for path in html} == set(build.pages().values())
    assert set(PAGES) <= set(build.pages())


def test_nothing_is_loaded_from_elsewhere(site: Path, html: dict[Path, Page]) -> None:
    for path, page in html.items():
        assert page.loads
        for target in page.loads:
            assert not re.match(r"[a-z]+:|//", target) or target.startswith("data:"), (path, target)
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    styles += "".join(page.styles for page in html.values())
    assert not re.search(r"url\(\s*['\"]?(?:https?:)?//|@import", styles)


def test_every_link_has_its_target(site: Path, html: dict[Path, Page]) -> None:
    checked = 0
    for path, page in html.items():
        for target in page.loads + page.links:
            place = urlsplit(target)
            if place.scheme or place.netloc:
                continue
            file = (path.parent / unquote(place.path)).resolve() if place.path else path
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), (path, target)
            if place.fragment and file in html:
                assert unquote(place.fragment) in html[file].anchors, (path, target)
            checked += 1
    assert checked > 1000


def test_a_page_has_its_markdown_beside_it(site: Path) -> None:
    for source, place in build.pages().items():
        text = (site / place).read_text(encoding="utf-8")
        assert text.splitlines()[0] == (ROOT / source).read_text(encoding="utf-8").splitlines()[0]
        for target in build.LINK.findall("".join(build.FENCE.split(text)[::2])):
            if not re.match(r"[a-z]+:|#", target):
                assert (site / place).parent.joinpath(target.partition("#")[0]).is_file(), (place, target)


def test_the_list_for_language_models_names_every_page(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# promptmill\n\n> ")
    entries = re.findall(r"^- \[[^]]+\]\(([^)]+)\): (.+)$", text, re.MULTILINE)
    assert [place for place, _ in entries] == list(build.pages().values())
    assert all(20 <= len(sentence) <= 320 for _, sentence in entries), entries


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the site is made of, which a test may spoil."""
    for source in [build.CONFIGURATION, *build.pages()]:
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, tmp_path / source)
    for folder in ("docs", "examples/nightly", "docker", "benchmarks"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    monkeypatch.setattr(build, "ROOT", tmp_path)
    return tmp_path


def test_broken_links_and_anchors_are_errors(copy: Path, tmp_path: Path) -> None:
    with (copy / "docs" / "index.md").open("a") as page:
        page.write("\n[a](how-to/chat.md#no-such-heading)\n")
    with pytest.raises(build.BuildError, match=r"(?s)anchor does not exist.*index\.md"):
        build.build(tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("target", ["how-to/nowhere.md", "nowhere.png", "../LICENCE", "../examples/nowhere.yaml"])
def test_a_file_that_is_not_there_is_an_error(copy: Path, tmp_path: Path, target: str) -> None:
    with (copy / "docs" / "index.md").open("a") as page:
        page.write(f"\n![a]({target})\n")
    with pytest.raises(build.BuildError, match=r"no file|does not exist"):
        build.build(tmp_path / "site")


def test_a_page_outside_the_table_of_contents_is_an_error(copy: Path) -> None:
    (copy / "docs" / "how-to" / "fly.md").write_text("# Fly\n")
    with pytest.raises(build.BuildError, match=r"nav does not have docs/how-to/fly\.md"):
        build.staged(copy / "pages")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# A\n\nOne [link](x.md) and `code`. Two.\n", "One link and code."),
        (
            "# A\n\n```sh\nls\n```\n\n| a |\n|---|\n\nAfter a table\nover lines: more\n",
            "After a table over lines: more",
        ),
        ("# A\n\nOf `.venv` (`. .venv/bin/activate`). More.", "Of .venv (. .venv/bin/activate)."),
    ],
)
def test_a_summary_is_the_first_sentence(text: str, sentence: str) -> None:
    assert build.summary(text) == sentence
