"""Puts names, values and errors of any length into one-line messages of bounded length, and values into commands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

UNKNOWN = "–"
"""Shown for a number that is not known yet."""
_MOST_LISTED = 20


def one_line(text: object, limit: int = 200) -> str:
    """Return `text` without line breaks, control characters or surrogates, cut to `limit` characters."""
    line = " ".join(str(text)[: limit * 4].split()).encode("utf-8", "backslashreplace").decode()
    return shortened("".join(c if c.isprintable() else " " for c in line), limit)


def shortened(text: str, limit: int) -> str:
    """Cut `text` to `limit` characters; an ellipsis at the end marks a cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def lines_of(text: object) -> list[str]:
    """Return the lines of a text that are not blank, stripped."""
    return [line.strip() for line in str(text).splitlines() if line.strip()]


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the first line of an exception's message; its class if it has no message."""
    return shortened((lines_of(error) or [type(error).__name__])[0], limit)


def named(error: BaseException) -> str:
    """Return the class of an exception and the first line of its message."""
    kind, first = type(error).__name__, first_line(error)
    return kind if first == kind else f"{kind}: {first}"


def brief(value: object, limit: int = 80) -> str:
    """Return the `repr` of a value, cut to `limit` characters; a long text is cut before `repr`, which keeps this cheap."""
    if isinstance(value, str | bytes):
        value = value[: limit + 1]
    return one_line(repr(value), limit)


def listed(items: Sequence[str], most: int = _MOST_LISTED) -> str:
    """Join names by commas; of more than `most`, the rest is only counted."""
    shown = ", ".join(one_line(item, 80) for item in items[:most])
    return shown if len(items) <= most else f"{shown} … and {len(items) - most} more"


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` for the most similar name (ignoring case), or an empty string."""
    lower = {n.lower(): n for n in reversed(names)}
    close = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    return f"; did you mean {brief(lower[close[0]])}?" if close else ""


def without_secrets(path: str) -> str:
    """Return a path or URI for a message of one line: a user name and password before the host are left out."""
    return one_line(masked(path))


def masked(text: str) -> str:
    """Return a text in which no URI has a user name and password before its host."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def by_code(errors: Mapping[str, int]) -> str:
    """Return how many errors there are of each code, the most frequent first, such as `3 NULL_PROMPT, 1 TIMEOUT`."""
    return ", ".join(f"{n:,} {code}" for code, n in sorted(errors.items(), key=lambda e: (-e[1], e[0])))


def duration(seconds: float | None) -> str:
    """Write a time as `1:02:03`, or `2:03` below an hour; a dash for None."""
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plain(text: str, limit: int | None = None) -> str:
    """Escape control characters, so that no text from data moves the cursor, colours the screen or begins a line.

    Args:
        text: The text.
        limit: Most characters of the result; None: no limit.
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped if limit is None else shortened(escaped, limit)


def size(number: float) -> str:
    """Write a number of bytes: `1.23 GiB`, `45 MiB`, `3 KiB`."""
    if number >= 2**30:
        return f"{number / 2**30:.2f} GiB"
    return f"{number / 2**20:.0f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"


def override(key: str, value: str) -> str:
    """Return KEY=VALUE for the command line; see `hydra_value`."""
    return f"{key}={hydra_value(value)}"


def hydra_value(text: str) -> str:
    """Return a text in Hydra's grammar: quoted if Hydra would read the bare text as anything but this string."""
    return text if re.fullmatch(r"[\w./-]+", text, re.ASCII) and not _is_literal(text) else quoted(text)


def as_given(value: object) -> str:
    """Return an option's value as people write it: `true`, `false` and `null` for Python's names, else as Python does."""
    return {"True": "true", "False": "false", "None": "null"}.get(repr(value), repr(value))


def quoted(text: str) -> str:
    """Return a text in quotes, escaped so that Hydra reads it back as the same string."""
    return in_quotes(uninterpolated(text))


def in_quotes(text: str) -> str:
    """Return a value, as a configuration's YAML has it, in quotes: interpolations stay, as does a `${` that is escaped."""
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return f'"{text}' + (len(text) - len(text.rstrip("\\"))) * "\\" + '"'


def uninterpolated(text: str) -> str:
    """Escape a text so that `${` begins no interpolation and OmegaConf resolves it to the same text."""
    return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)


def _is_literal(value: str) -> bool:
    """Whether a bare word is a number, a boolean or None; Hydra spells numbers as Python does."""
    try:
        float(value)
    except ValueError:
        return value.lower() in ("null", "true", "false")
    return True
