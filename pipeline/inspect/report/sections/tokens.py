"""The section that shows sample texts token by token, in three colourings."""

from __future__ import annotations

import itertools
from typing import Any

from pipeline.inspect.page.elements import Markup, note, paragraph
from pipeline.inspect.page.shell import Section
from pipeline.inspect.page.text import isolated, shown
from pipeline.inspect.page.tokens import ShownToken, panel, switch, token_view
from pipeline.inspect.report.measure.examples import TOKENS, Example
from pipeline.inspect.report.subject import Subject
from pipeline.types import Tokenizer
from pipeline.wording import counted
from pipeline.work.tokens import token_text, token_texts

_PROMPT = 500
_ALTERNATIVES = 10


def section(subject: Subject) -> Section:
    """Return the section."""
    chosen = subject.measured.examples.chosen
    if not chosen:
        return Section("tokens", "Tokens", note("info", "There is no text, so there are no tokens to show."))
    columns = subject.measured.columns
    present = [
        name
        for name, column in (("rank", "token_ranks"), ("prob", "token_logprobs"), ("entropy", "token_entropies"))
        if column in columns
    ]
    made = "what chance, or the sampling settings, made of it" if subject.generated else "what surprised it"
    parts = [paragraph(
        "Texts spread evenly over the output, the same ones each time. A colour says how the token stood in the model's own "
        f"distribution: pale is what the model expected, strong is {made}."
    )]  # fmt: skip
    if subject.origin.tokenizer is None:
        parts.append(note("info", "The model's tokenizer is not at hand here: tokens are shown by their ids."))
    if not present:
        parts.append(note("info", "This output has no statistics of tokens, so there is nothing to colour them by."))
    elif "top_token_ids" not in columns:
        parts.append(
            note("info", "With stats.top_logprobs=5, the alternatives of each token are recorded and shown here, too.")
        )
    parts.append(switch(present))
    views = [_example(example, number, subject.origin.tokenizer) for number, example in enumerate(chosen)]
    return Section("tokens", "Tokens", Markup("".join([*parts, f'<div class="stack">{"".join(views)}</div>', panel()])))


def _example(example: Example, number: int, tokenizer: Tokenizer | None) -> str:
    row = example.row
    name = f"{row.get('row_id')} #{row.get('sample_index') or 0}"
    prompt = row.get("prompt")
    before = f'<div class="prompt"><p class="text" dir="auto">{shown(prompt, _PROMPT)}</p></div>' if prompt else ""
    ends = row.get("finish_reason") or ""
    if row.get("stop_reason"):
        ends += f" at {row['stop_reason']!r}"
    length = counted(example.tokens, "token")
    more = f", {example.tokens - TOKENS:,} more tokens are left out" if example.tokens > TOKENS else ""
    view = token_view(shown_tokens(row, tokenizer), f"sample-{number}", f"Tokens of {name}")
    return (
        f'<article class="block"><h3>{isolated(name, 120)}</h3>{before}{view}'
        f'<p class="of">{length}{more}{"; ends by " if ends else ""}{isolated(ends, 80)}</p></article>'
    )


def shown_tokens(row: dict[str, Any], tokenizer: Tokenizer | None) -> list[ShownToken]:
    """Return the tokens of an output row."""
    ids = row.get("token_ids") or []
    texts = token_texts(ids, tokenizer)
    tops = row.get("top_token_ids") or [], row.get("top_token_logprobs") or []

    def at(column: str, place: int) -> Any:
        values = row.get(column)
        return values[place] if values is not None and place < len(values) else None

    made = []
    columns = ("token_logprobs", "token_entropies", "token_ranks")
    for place, token in enumerate(ids):
        alternatives: tuple[tuple[str, int, float], ...] = ()
        if place < len(tops[0]) and place < len(tops[1]):
            pairs = zip(tops[0][place] or (), tops[1][place] or (), strict=False)
            alternatives = tuple((token_text(i, tokenizer), i, p) for i, p in itertools.islice(pairs, _ALTERNATIVES))
        logprob, entropy, rank = (at(column, place) for column in columns)
        made.append(ShownToken(texts[place], token, logprob, entropy, rank, alternatives))
    return made
