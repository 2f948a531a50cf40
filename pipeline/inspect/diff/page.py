"""Lays out a comparison as a page: what was found, why, and differing rows with their tokens side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.inspect.diff.result import Difference, lines_of_cause
from pipeline.inspect.diff.table import facts as facts_of
from pipeline.inspect.diff.table import side_line, token_phrase
from pipeline.inspect.diff.tally import KINDS, Example
from pipeline.inspect.page.elements import Markup, cell, facts, note, paragraph, quotation, table, tiles
from pipeline.inspect.page.shell import Section, page
from pipeline.inspect.page.tokens import ShownToken, panel, switch, token_view
from pipeline.types import Tokenizer
from pipeline.wording import shortened
from pipeline.work.tokens import token_text, token_texts

BEFORE, AFTER = 80, 160
"""Tokens that are shown before and after the first that differs."""
_BEHIND = 8
"""Tokens before them, behind which they are decoded."""
_ALTERNATIVES = 5
_PROMPT, _TEXT = 600, 3000
"""Characters that are shown of a prompt, and of another value."""


def diff_page(found: Difference) -> bytes:
    """Return the page; the same outputs give the same bytes."""
    tally, matched = found.tally, found.matched
    notes = [note("good" if found.equal else "warn", line) for line in found.because()]
    notes += [note("info", f"also other: {cause.topic}: {lines_of_cause(cause)}") for cause in found.explanation.others]
    head = (
        f'<p class="verdict">{cell(found.verdict())}</p>'
        + tiles(
            [
                ("equal", f"{tally.equal:,}", "rows in both"), ("different", f"{tally.different:,}", "rows in both"),
                ("only in a", f"{matched.only_a.rows:,}", "rows"), ("only in b", f"{matched.only_b.rows:,}", "rows"),
            ]
        )
        + f'<div class="notes">{"".join(notes)}</div>'
    )  # fmt: skip
    sides = facts([(side.name, side_line(side)) for side in (found.a, found.b)])
    numbers = facts([(name, text) for name, text in facts_of(found) if text and name != "by column"])
    sections = [Section("numbers", "What was compared", sides + numbers + _columns(found))]
    if tally.examples:
        sections.append(Section("rows", "Rows that differ", "".join(_examples(found))))
    return page("Two outputs side by side", head, sections)


def _columns(found: Difference) -> str:
    changed = [(name, f"{rows:,}") for name, rows in found.tally.columns.items() if rows]
    return table(("column", "rows that differ"), changed, caption="By column") if changed else ""


def _examples(found: Difference) -> Iterator[str]:
    present = {
        name for name, column in (("rank", "token_ranks"), ("prob", "token_logprobs"), ("entropy", "token_entropies"))
        if column in found.compared
    }  # fmt: skip
    yield paragraph(
        f"{len(found.tally.examples)} of {found.tally.different:,}. The first token that differs has a dashed frame."
    )
    yield switch(present)
    yield '<div class="stack">'
    for kind in KINDS:
        for number, example in enumerate(e for e in found.tally.examples if e.kind == kind):
            yield _example(found, example, f"{kind}-{number}")
    yield "</div>"
    yield panel()


def _example(found: Difference, example: Example, name: str) -> str:
    head = f"{example.a['row_id']} #{example.a['sample_index']}"
    parts = [f"<h3>{cell(shortened(head, 200))}</h3>", paragraph(f"differs in {', '.join(example.columns)}")]
    prompt = example.a.get("prompt")
    if prompt and "prompt" not in example.columns:
        parts.append(f'<div class="prompt">{quotation(prompt, _PROMPT)}</div>')
    sides = "".join(_side(found, example, side, name) for side in "ab")
    return f'<article class="block">{"".join(parts)}<div class="beside">{sides}</div></article>'


def _side(found: Difference, example: Example, side: str, name: str) -> str:
    own = example.a if side == "a" else example.b
    parts = [f'<p class="of">{side}{_ending(own)}</p>']
    if own.get("error_code") is not None:
        parts.append(quotation(f"{own['error_code']}: {own.get('error_message') or ''}", _TEXT))
    elif example.kind in ("tokens", "statistics") and own.get("token_ids") is not None:
        if example.place is not None:
            parts.append(paragraph(f"token {example.place}: {token_phrase(found.tokens.first(example, side), side)}"))
        parts.append(_tokens(example, own, found.tokens.of(side), f"{name}-{side}"))
    else:
        values = [(column, shortened(str(own[column]), _TEXT)) for column in example.columns if column in own]
        parts.append(facts(values))
    return f"<div>{''.join(parts)}</div>"


def _ending(row: Mapping[str, Any]) -> str:
    told = [f"{row['completion_tokens']:,} tokens"] if row.get("completion_tokens") is not None else []
    told += [str(row["finish_reason"])] if row.get("finish_reason") is not None else []
    return f": {cell(', '.join(told))}" if told else ""


def _tokens(example: Example, row: Mapping[str, Any], tokenizer: Tokenizer | None, name: str) -> str:
    ids: Sequence[int] = row["token_ids"]
    start = max(0, (example.place or 0) - BEFORE)
    stop = min(len(ids), start + BEFORE + AFTER)
    behind = max(0, start - _BEHIND)
    texts = token_texts(ids[behind:stop], tokenizer)[start - behind :]
    shown = [ShownToken(text, ids[place], *_numbers(row, place, tokenizer)) for place, text in enumerate(texts, start)]
    mark = None if example.place is None or example.place >= stop else example.place - start
    left_out = [f"{start:,} tokens before"] * (start > 0) + [f"{len(ids) - stop:,} after"] * (stop < len(ids))
    more = paragraph(f"{' and '.join(left_out)} are left out") if left_out else Markup("")
    return token_view(shown, name, f"tokens of {example.a['row_id']}", mark) + more


def _numbers(row: Mapping[str, Any], place: int, tokenizer: Tokenizer | None) -> tuple[Any, ...]:
    """Return log-probability, entropy, rank and alternatives at a place, as far as the row has them."""
    single = [_at(row.get(name), place) for name in ("token_logprobs", "token_entropies", "token_ranks")]
    ids, logprobs = (_at(row.get(name), place) or () for name in ("top_token_ids", "top_token_logprobs"))
    pairs = list(zip(ids, logprobs, strict=False))[:_ALTERNATIVES]
    spelled = [(token_text(i, tokenizer), i, p) for i, p in pairs]
    return (*single, tuple(entry for entry in spelled if entry[2] is not None))


def _at(values: Sequence[Any] | None, place: int) -> Any:
    return values[place] if values is not None and place < len(values) else None
