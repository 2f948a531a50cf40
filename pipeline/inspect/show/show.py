"""Shows rows of an output: chosen, laid out, and written as they are found."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

from pipeline.inspect.config import ShowConfig
from pipeline.inspect.output import Output
from pipeline.inspect.show.layout import legend, lines
from pipeline.inspect.show.rows import Chosen, choose
from pipeline.types import Tokenizer
from pipeline.wording import counted


def show(
    config: ShowConfig, spelling: Callable[[Output], Tokenizer | None], *, coloured: bool, width: int
) -> Iterator[str]:
    """Yield what is to be written, row by row.

    Args:
        config: Which rows, and how.
        spelling: Returns the tokenizer of an output, if it is on this machine; asked for tokens only.
        coloured: Whether the terminal shows colours.
        width: Its columns, for lines that end before a word.

    Raises:
        PlanRefused: If there is no output, nothing is committed yet, or a part is damaged.
        ConfigurationError: If the filter cannot be used.
    """
    chosen = choose(config)
    console = _Console(coloured=coloured, width=width)
    tokenizer = spelling(chosen.output) if config.tokens else None
    shown, more = 0, False
    for row in chosen.rows(tokens=config.tokens):
        if shown == config.limit:
            more = True
            break
        shown += 1
        yield console.text(*lines(row, tokens=config.tokens, tokenizer=tokenizer, coloured=coloured), Text(""))
    yield console.text(*_end(config, chosen, shown, more=more, coloured=coloured))


def _end(config: ShowConfig, chosen: Chosen, shown: int, *, more: bool, coloured: bool) -> Iterator[Text]:
    if config.tokens and shown:
        if "token_ranks" not in chosen.schema.names:
            yield Text("tokens have no colours: the output has no token_ranks (stats.columns)")
        elif coloured:
            yield legend()
    if more:
        yield Text(f"the first {counted(shown, 'row')}; limit={max(20, 2 * shown)} shows more")
    elif not shown:
        yield Text("no row matches" if chosen.terms else "no rows")
    if chosen.missing_parts and chosen.plan is not None:
        done, planned = len(chosen.parts), chosen.plan.shard_count
        yield Text(
            f"not finished: {done:,} of {counted(planned, 'part')} are committed, and no other rows can be seen yet"
        )


class _Console:
    """Makes text with or without colours, which may be written anywhere."""

    def __init__(self, *, coloured: bool, width: int) -> None:
        self._file = io.StringIO()
        self._console = Console(
            file=self._file, force_terminal=coloured, no_color=not coloured, color_system="256" if coloured else None,
            width=width, highlight=False, soft_wrap=True,
        )  # fmt: skip

    def text(self, *parts: Text) -> str:
        """Return the lines as they are written."""
        for part in parts:
            self._console.print(part)
        made = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return made
