"""The page itself: one file with its styles and its script, and a policy under which nothing else is loaded or run."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.inspect.page.text import attribute, shown


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a page: its name in addresses, its title, its body as HTML."""

    name: str
    title: str
    body: str


def page(title: str, head: str, sections: Sequence[Section]) -> bytes:
    """Return an HTML file.

    It loads nothing. Its Content-Security-Policy allows its own style sheet and script, by digest, and nothing else: no
    `style` attribute, no handler in an attribute. The same arguments give the same bytes.

    Args:
        title: Of the page; any text.
        head: What stands first, as HTML.
        sections: What follows.
    """
    style, script = (_resource(name) for name in ("page.css", "page.js"))
    links = "".join(f'<li><a href="#{s.name}">{html.escape(s.title)}</a></li>' for s in sections)
    bodies = "\n".join(
        f'<section id="{s.name}" aria-labelledby="{s.name}-title">\n'
        f'<h2 id="{s.name}-title">{html.escape(s.title)}</h2>\n{s.body}\n</section>'
        for s in sections
    )
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{attribute(title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#top">Skip to the content</a>
<nav aria-label="Sections"><a class="brand" href="#top">promptmill</a><ul>{links}</ul></nav>
<main id="top">
<header>
<h1>{shown(title)}</h1>
{head}
</header>
{bodies}
</main>
<script>{script}</script>
</body>
</html>
"""
    return text.encode("utf-8", "replace")


def _resource(name: str) -> str:
    text = (importlib.resources.files("pipeline.inspect.page") / name).read_text(encoding="utf-8")
    assert not re.search(r"</(style|script)", text, re.IGNORECASE)
    return text


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
