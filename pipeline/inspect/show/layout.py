"""Lays out a row for a terminal: its prompt, its text with or without colours of its tokens, and what else is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from pipeline.types import Tokenizer
from pipeline.wording import counted, plain
from pipeline.work.tokens import BANDS, colour, on_screen, shares, token_texts

HEAD, TAIL = 400, 800
"""Characters of a prompt that are shown: at its beginning and at its end."""
_LONGEST = 200
"""Characters of another value."""
TEXT, TOKENS = 20_000, 5_000
"""Characters and tokens of a completion that are shown."""
_IN_HEAD = frozenset({
    "row_id", "sample_index", "prompt", "text", "finish_reason", "stop_reason", "prompt_tokens", "completion_tokens",
    "cumulative_logprob", "error_code", "error_message", "token_ids", "token_logprobs", "token_entropies", "token_ranks",
})  # fmt: skip
"""Columns with a place of their own."""


def legend() -> Text:
    """Return what the colours mean."""
    parts: list[Any] = ["rank of a token: "]
    for number, (name, _, style) in enumerate(BANDS):
        parts += [", "] if number else []
        parts.append((name, style))
    return Text.assemble(*parts)


def lines(row: Mapping[str, Any], *, tokens: bool, tokenizer: Tokenizer | None, coloured: bool) -> Iterator[Text]:
    """Yield the lines of a row.

    Args:
        row: Column → value.
        tokens: Show its tokens.
        tokenizer: Spells them; None: their ids are shown.
        coloured: Whether colours are seen.
    """
    yield _head(row)
    for name, value in row.items():
        if name not in _IN_HEAD and value is not None:
            yield Text.assemble((f"{plain(name, 60)}: ", "dim"), plain(_written(value), _LONGEST))
    if row.get("prompt"):
        yield _prompt(row["prompt"])
    if row.get("error_code") is not None:
        yield Text(
            f"→ error {plain(str(row['error_code']), 60)}: {plain(str(row.get('error_message') or ''), 1000)}", "bold"
        )
    elif tokens and row.get("token_ids") is not None:
        yield _tokens(row, tokenizer, coloured=coloured)
    elif row.get("text") is not None:
        yield Text.assemble(
            ("→ ", "bold"), on_screen(row["text"][:TEXT]), *_left_out(len(row["text"]) - TEXT, "character")
        )


def _head(row: Mapping[str, Any]) -> Text:
    facts = []
    if row.get("finish_reason") is not None:
        stop = row.get("stop_reason")
        facts.append(str(row["finish_reason"]) + (f" at {plain(repr(stop), 40)}" if stop is not None else ""))
    facts += [counted(row["prompt_tokens"], "prompt token")] if row.get("prompt_tokens") is not None else []
    facts += [f"{row['completion_tokens']:,} generated"] if row.get("completion_tokens") is not None else []
    total, count = row.get("cumulative_logprob"), row.get("completion_tokens")
    facts += [f"mean logprob {total / count:.2f}"] if total is not None and count else []
    name = f"{plain(str(row.get('row_id')), 80)} #{row.get('sample_index')}"
    return Text.assemble((name, "bold"), (f"  {plain(' · '.join(facts))}", "dim"))


def _written(value: Any) -> str:
    """Return a value in some characters; a huge one is cut before it is written."""
    if isinstance(value, str | bytes | list):
        value = value[: _LONGEST + 1]
    return value if isinstance(value, str) else repr(value)


def _prompt(text: str) -> Text:
    if len(text) <= HEAD + TAIL:
        return Text(on_screen(text), "dim")
    left_out = _left_out(len(text) - HEAD - TAIL, "character")
    return Text.assemble((on_screen(text[:HEAD]), "dim"), *left_out, (on_screen(text[-TAIL:]), "dim"))


def _left_out(number: int, noun: str) -> Iterator[tuple[str, str]]:
    if number > 0:
        yield f" […{counted(number, noun)}…] ", "reverse"


def _tokens(row: Mapping[str, Any], tokenizer: Tokenizer | None, *, coloured: bool) -> Text:
    """A completion, each token in the colour of its rank; and the share of each band, for those who see no colours."""
    ids, ranks = row["token_ids"][:TOKENS], row.get("token_ranks")
    text = Text.assemble(("→ ", "bold"))
    for place, piece in enumerate(token_texts(ids, tokenizer)):
        rank = ranks[place] if coloured and ranks is not None and place < len(ranks) else None
        text.append(on_screen(piece), colour(rank))
    for part in _left_out(len(row["token_ids"]) - TOKENS, "token"):
        text.append(*part)
    known = [rank for rank in ranks or () if rank is not None]
    if known:
        text.append(f"  (ranks: {shares(known)})", "dim")
    return text
