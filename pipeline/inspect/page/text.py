"""Shows text from data in HTML: it makes no markup, and what cannot be seen or turns a line around is written out."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e0fff]"
)
"""Control characters, marks of direction, spaces without width, half surrogate pairs, tags, and what is no character."""


def _code_point(found: re.Match[str]) -> str:
    return f"U+{ord(found[0]):04X}"


def written_out(text: str, limit: int | None = None) -> str:
    """Return a text for an attribute or a script: what cannot be seen becomes `⟨U+202E⟩`. It still has to be escaped."""
    return _UNSEEN.sub(lambda found: f"⟨{_code_point(found)}⟩", _cut(text, limit)[0].replace("\r\n", "\n"))


def shown(text: str, limit: int | None = None) -> str:
    """Return a text as HTML, in which what cannot be seen stands as a marked code point.

    Args:
        text: Any text.
        limit: Most characters; what is left out is counted at the end. None: no limit.
    """
    kept, left_out = _cut(text, limit)
    more = f' <span class="muted">… {left_out:,} more characters</span>' if left_out else ""
    return _marked(kept.replace("\r\n", "\n"), lambda piece: html.escape(piece)) + more


def shown_token(text: str) -> str:
    """Return the text of a token as HTML: line ends and tabs are seen, too."""

    def piece(plain: str) -> str:
        escaped = html.escape(plain)
        return escaped.replace("\n", '<span class="ws">⏎</span>\n').replace("\t", '<span class="ws">⇥</span>\t')

    return _marked(text, piece)


def attribute(text: str) -> str:
    """Return a text for an attribute in double quotes."""
    return html.escape(written_out(text))


def isolated(text: str, limit: int | None = None) -> str:
    """Return a short text as HTML that does not change the direction of the text around it."""
    return f"<bdi>{shown(text, limit)}</bdi>"


def _cut(text: str, limit: int | None) -> tuple[str, int]:
    return (text, 0) if limit is None or len(text) <= limit else (text[:limit], len(text) - limit)


def _marked(text: str, piece: Callable[[str], str]) -> str:
    made, end = [], 0
    for found in _UNSEEN.finditer(text):
        made += [piece(text[end : found.start()]), f'<span class="cp">{_code_point(found)}</span>']
        end = found.end()
    return "".join([*made, piece(text[end:])])
