"""Shows a preview: rendered prompts, completions coloured by the rank of their tokens, and what the whole job would take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.planning.plan import Plan
from pipeline.statistics import STATISTICS
from pipeline.types import Completion, PromptRow, Tokenizer
from pipeline.wording import counted, duration, plain
from pipeline.work.preview import RANK, Preview, PreviewRow
from pipeline.work.tokens import BANDS, colour, on_screen, shares, token_texts

HEAD, TAIL = 400, 800
"""Characters of a prompt that are shown: at its beginning and at its end."""


def show_preview(found: Preview, console: Console | None = None) -> None:
    """Print a preview; with colours only on a terminal, and never with `NO_COLOR`.

    Args:
        found: The preview.
        console: Where to; None: standard output.
    """
    console = console or _Stdout(file=sys.stdout, highlight=False, soft_wrap=True)
    coloured = console.is_terminal and not console.no_color
    for number, shown in enumerate(found.rows, start=1):
        console.print(_head(shown, number, len(found.rows)))
        console.print(_prompt(shown.row, found.tokenizer))
        for completion in shown.completions:
            console.print(_completion(completion, found.tokenizer, coloured=coloured))
        console.print()
    if coloured and any(_ranks(c) is not None for row in found.rows for c in row.completions):
        console.print(Text.assemble("rank of a token: ", *_joined([(name, style) for name, _, style in BANDS])))
    for line in _end(found):
        console.print(Text(line))


class _Stdout(Console):
    """Standard output; it is no error if its reader closes the pipe early, as `head` does."""

    def on_broken_pipe(self) -> None:
        """Print no more. By itself, rich would end the process with exit code 1."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _joined(parts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for i, part in enumerate(parts):
        yield part if not i else (", ", "")
        if i:
            yield part


def _head(shown: PreviewRow, number: int, count: int) -> Text:
    row = shown.row
    facts = [counted(row.prompt_tokens, "prompt token")] if row.prompt_tokens else []
    if shown.completions:
        facts += [f"{sum(len(c.token_ids) for c in shown.completions):,} generated", f"{shown.seconds:.1f} s"]
    return Text.assemble((f"{number}/{count} {plain(row.row_id, 80)}", "bold"), (f"  {' · '.join(facts)}", "dim"))


def _prompt(row: PromptRow, tokenizer: Tokenizer) -> Text:
    """The prompt as the model reads it, special tokens included; or the error."""
    if row.error is not None:
        return Text(f"error {row.error.code.value}: {row.error.message}", "bold")
    text = tokenizer.decode(row.prompt_token_ids, special=True)
    if row.prompt is not None and len(text) > HEAD + TAIL:
        left_out = f" […{len(text) - HEAD - TAIL:,} characters…] "
        return Text.assemble((on_screen(text[:HEAD]), "dim"), (left_out, "reverse"), (on_screen(text[-TAIL:]), "dim"))
    return Text(on_screen(text), "dim")


def _completion(completion: Completion, tokenizer: Tokenizer, *, coloured: bool) -> Text:
    """A completion after an arrow, and how it ended."""
    if completion.error is not None:
        return Text(f"→ error {completion.error.code.value}: {completion.error.message}", "bold")
    ranks = _ranks(completion)
    text = Text.assemble(("→ ", "bold"))
    if ranks is None or not coloured:
        text.append(on_screen(tokenizer.decode(completion.token_ids, special=True)))
    else:
        for place, piece in enumerate(token_texts(completion.token_ids, tokenizer)):
            text.append(on_screen(piece), colour(ranks[place]))
    how = str(completion.finish_reason)
    if ranks is not None and len(ranks):
        how += f"; ranks: {shares(ranks)}"
    text.append(f"  ({how})", "dim")
    return text


def _ranks(completion: Completion) -> Any:
    """The rank of each token; None where the engine measures none."""
    return completion.statistics.get(STATISTICS[RANK].column)


def _end(found: Preview) -> Iterator[str]:
    errors = sum(row.row.error is not None for row in found.rows)
    errors += sum(c.error is not None for row in found.rows for c in row.completions)
    wrong = f", {counted(errors, 'error')}" if errors else ""
    rate = f", {found.tokens / found.seconds:,.0f} tokens/s" if found.tokens and found.seconds > 0 else ""
    yield f"preview  {counted(len(found.rows), 'row')}{wrong}; {found.tokens:,} tokens in {duration(found.seconds)}{rate}"
    yield f"whole    {_whole(found, found.plan)}"
    yield "nothing was written"


def _whole(found: Preview, plan: Plan) -> str:
    whole = found.whole()
    rows = counted(plan.rows, "row")
    if whole is None:
        return f"{rows}; how long they take is not known, as nothing was generated"
    tokens, seconds = whole
    together = min(found.completions, found.most) if found.most else found.completions
    fuller = (
        f", with {counted(together, 'sequence')} at once, where the job runs up to {found.most}"
        if together < found.most
        else ""
    )
    return f"{rows}, about {tokens:,.0f} tokens, {duration(seconds)} at this rate on one replica{fuller}"
