"""Builds the documentation as a site: `python -m docs.build site`, which is `make docs`.

The pages are those of `docs/` and, under `project/`, the Markdown files that stand beside the code; `zensical.toml` has
their order. Zensical makes the HTML, strictly: a broken link or anchor ends the build. Beside each page lies its Markdown
(`how-to/chat.md` beside `how-to/chat.html`), and `llms.txt` lists all of them with a sentence each.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HOME = "index.md"
CONFIGURATION = "zensical.toml"
BESIDE_THE_CODE = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "benchmarks/RESULTS.md": "project/results.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "docker/README.md": "project/docker.md",
    "examples/README.md": "project/examples.md",
}
"""Pages that are not in docs/: path in the repository → place in the site."""
FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class BuildError(Exception):
    """The site cannot be built; the message says why."""


def sections() -> dict[str, dict[str, str]]:
    """Return the table of contents: section → (page's place in the site → title). Single pages are section ""."""
    found: dict[str, dict[str, str]] = {"": {}}
    entries: list[dict[str, Any]] = tomllib.loads((ROOT / CONFIGURATION).read_text(encoding="utf-8"))["project"]["nav"]
    for name, content in (item for entry in entries for item in entry.items()):
        if isinstance(content, str):
            found[""][content] = name
        else:
            found[name] = {page: title for entry in content for title, page in entry.items()}
    return found


def pages() -> dict[str, str]:
    """Return the pages: path in the repository → place in the site."""
    sources = {place: source for source, place in BESIDE_THE_CODE.items()}
    return {sources.get(place, f"docs/{place}"): place for section in sections().values() for place in section}


def relinked(text: str, source: str, known: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Point a page's links at places in the site.

    Args:
        text: The page's Markdown.
        source: Its path in the repository.
        known: See `pages`.

    Returns:
        The Markdown, and what else belongs in the site because the page shows or links to it: place → path.
    """
    files: dict[str, str] = {}

    def moved(match: re.Match[str]) -> str:
        target, hash_, anchor = match[1].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = HOME if path == "README.md" else known.get(path)
        if place is None:
            place = path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
            files[place] = path
        return f"]({posixpath.relpath(place, posixpath.dirname(known[source]) or '.')}{hash_}{anchor})"

    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts), files


def staged(folder: Path) -> None:
    """Write all pages, and the files that they show or link to, as Zensical takes them.

    Raises:
        BuildError: If a page has no place in the table of contents, or the table names a page that is not there.
    """
    known = pages()
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")}
    if missing := sorted(there - set(known)):
        raise BuildError(f"{CONFIGURATION}: nav does not have {', '.join(missing)}")
    if gone := [source for source in known if not (ROOT / source).is_file()]:
        raise BuildError(f"{CONFIGURATION}: nav has {', '.join(gone)}, which is not there")
    copies: dict[str, str] = {}
    for source, place in known.items():
        text, files = relinked((ROOT / source).read_text(encoding="utf-8"), source, known)
        _written(folder / place, text)
        copies |= files
    for place, path in copies.items():
        if not (ROOT / path).is_file():
            raise BuildError(f"a page links to {path}, which is no file")
        _written(folder / place, (ROOT / path).read_bytes())


def summary(text: str) -> str:
    """Return the first sentence of a page's first paragraph, without links and other marks."""
    paragraphs = [part for part in FENCE.sub("", text).split("\n\n") if part.strip()]
    first = next((part for part in paragraphs if re.match(r"\s*[\w\"*`\[]", part)), "")
    plain = re.sub(r"[*`]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(first.split())))
    return re.split(r"(?<=[.:])\s+(?=[A-Z0-9]|promptmill )", plain, maxsplit=1)[0].removesuffix(":")


def llms() -> str:
    """Return `llms.txt` (llmstxt.org): every page's Markdown, with a sentence about it."""
    config = tomllib.loads((ROOT / CONFIGURATION).read_text(encoding="utf-8"))["project"]
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}"]
    sources = {place: source for source, place in pages().items()}
    for section, titles in sections().items():
        lines += ["", f"## {section or 'Start'}", ""]
        for place, title in titles.items():
            lines.append(f"- [{title}]({place}): {summary((ROOT / sources[place]).read_text(encoding='utf-8'))}")
    return "\n".join(lines) + "\n"


def build(site: Path) -> None:
    """Build the site into a folder, which is replaced.

    Raises:
        BuildError: If a page, link or anchor is missing; the message is Zensical's.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shutil.copy(ROOT / CONFIGURATION, work)
        staged(work / "docs")
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
            cwd=work, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BuildError(re.sub(r"\x1b\[[\d;]*m", "", done.stderr).partition("Traceback")[0].strip())
        for page in (work / "docs").rglob("*.md"):
            _written(work / "site" / page.relative_to(work / "docs"), page.read_bytes())
        _written(work / "site" / "llms.txt", llms())
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(work / "site", site)


def _written(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]))
    except BuildError as error:
        sys.exit(str(error))
