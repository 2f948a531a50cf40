"""The coloured token view: a text token by token, in three colourings to switch between, with the alternatives of each."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.inspect.page.elements import Markup
from pipeline.inspect.page.text import attribute, shown_token, written_out

RANKS = (1, 10, 100, 1000)
"""The greatest rank of each band but the last."""
PROBABILITIES = (0.5, 0.1, 0.01, 0.001)
"""The least probability of each band but the last."""
ENTROPIES = (0.5, 1.5, 3.0, 5.0)
"""The greatest entropy of each band but the last, nats."""
_PART = '<span class="ws">▫</span>'
COLOURINGS = (
    ("rank", "Rank", ("1", "2–10", "11–100", "101–1,000", "beyond")),
    ("prob", "Log-probability", ("p ≥ 0.5", "≥ 0.1", "≥ 0.01", "≥ 0.001", "less")),
    ("entropy", "Entropy", ("≤ 0.5 nats", "≤ 1.5", "≤ 3", "≤ 5", "more")),
)
"""Name, title, and the bands from what is expected to what surprises."""


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token of a text, and what the model thought of it.

    Attributes:
        text: What it adds to the text; for a token of which only the number is known, that number.
        id: Its id.
        logprob: Its log-probability, nats; None where it was not recorded, as with the others.
        entropy: That of the model's distribution, nats.
        rank: 1 is the most likely.
        alternatives: The most likely tokens at its place: text, id, log-probability.
    """

    text: str
    id: int
    logprob: float | None = None
    entropy: float | None = None
    rank: int | None = None
    alternatives: tuple[tuple[str, int, float], ...] = ()


def switch(present: Iterable[str] = ("rank", "prob", "entropy")) -> Markup:
    """Return the choice of colouring with a legend of each, and the panel that shows a token's alternatives; once per page.

    Args:
        present: The names of the colourings that have values; the first of them is chosen.
    """
    has = set(present)
    choices: list[str] = []
    legends: list[str] = []
    for name, title, bands in COLOURINGS:
        if name not in has:
            continue
        checked = "" if choices else " checked"
        choices.append(
            f'<label><input type="radio" name="colouring" id="by-{name}" value="{name}"{checked}> {title}</label>'
        )
        steps = "".join(f'<span class="t {name[0]}{i}">{html.escape(band)}</span>' for i, band in enumerate(bands))
        legends.append(f'<div class="legend of-{name}" aria-hidden="true">{steps}</div>')
    if not choices:
        return Markup("")
    return Markup(
        f'<fieldset class="switch"><legend>Colour tokens by</legend>{"".join(choices)}</fieldset>{"".join(legends)}'
    )


def panel() -> Markup:
    """Return the panel that shows the token under the pointer or the cursor; once per page, behind the views."""
    return Markup(
        '<div class="panel" id="token-panel" role="status" aria-live="polite">'
        '<p class="muted">Point at a token, tap it, or move with the arrow keys: its numbers and its alternatives appear '
        "here.</p></div>"
    )


def token_view(tokens: Sequence[ShownToken], name: str, label: str, mark: int | None = None) -> Markup:
    """Return a text, token by token.

    Args:
        tokens: Its tokens; without any, nothing is returned.
        name: A name for the page, unique in it; letters, digits and hyphens.
        label: What the text is, for those who hear the page.
        mark: The place of a token to mark: the first that differs.
    """
    if not tokens:
        return Markup("")
    made = "".join(_token(token, f"{name}-{i}", marked=i == mark) for i, token in enumerate(tokens))
    return Markup(
        f'<div class="tokens" role="listbox" aria-orientation="horizontal" tabindex="0" dir="auto" id="{name}"'
        f' aria-label="{attribute(label)}">{made}</div>'
    )


def _token(token: ShownToken, name: str, *, marked: bool) -> str:
    classes, data = ["t", *(["diff"] if marked else [])], [f'data-id="{token.id}"']
    if token.rank is not None:
        classes.append(f"r{band(token.rank, RANKS)}")
        data.append(f'data-r="{token.rank}"')
    if token.logprob is not None:
        classes.append(f"p{band(-math.exp(min(0.0, token.logprob)), [-p for p in PROBABILITIES])}")
        data.append(f'data-p="{token.logprob:.4g}"')
    if token.entropy is not None:
        classes.append(f"e{band(token.entropy, ENTROPIES)}")
        data.append(f'data-e="{token.entropy:.4g}"')
    if token.alternatives:
        choices = [[written_out(text), number, round(value, 4)] for text, number, value in token.alternatives]
        data.append(f'data-a="{html.escape(json.dumps(choices, separators=(",", ":")))}"')
    if not token.text.strip():  # what is not seen has a name for those who hear the page
        data.append(f'aria-label="{"white space" if token.text else "a part of a character"}"')
    return (
        f'<span role="option" aria-selected="false" id="{name}" class="{" ".join(classes)}" {" ".join(data)}>'
        f"{shown_token(token.text) or _PART}</span>"
    )


def band(value: float, bounds: Sequence[float]) -> int:
    """Return the first band whose bound a value does not exceed; the number of bounds if it exceeds all."""
    return next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
