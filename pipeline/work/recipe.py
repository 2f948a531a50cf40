"""What a job makes of a row, and which recipes there are, by the name of their job.

Planning, dispatch, replicas, commits, resume and `verify` are the same for all of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from pipeline.types import Completion, PromptRow, Request

RECIPES = {"generate": "pipeline.work.generate:Generate"}
"""Job → its recipe. A recipe's module is imported when it is asked for."""


class Recipe(Protocol):
    """Makes requests of a row, and output rows of what the engine answers.

    It is made of the options that decide the output's bytes, as the plan has them, so that whoever finds an output finds its
    recipe again. Every output row has `row_id`, `sample_index`, `prompt_tokens`, `error_code` and `error_message`; the rows
    of one input row follow each other with `sample_index` from 0 on, and a row with an error has its rows, too.

    Attributes:
        title: What the output is, for its card.
        meanings: Column → what it holds, for the card.
        samples: Output rows per input row; None: they differ from row to row.
    """

    title: str
    meanings: Mapping[str, str]
    samples: int | None

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Take what is needed of a plan's options.

        Raises:
            KeyError: If one is not there.
        """

    def requests(self, row: PromptRow) -> Sequence[Request]:
        """Return what the engine is asked for a row, `sample_index` from 0 on; nothing for a row with an error."""

    def schema(self, kept: pa.Schema) -> pa.Schema:
        """Return the schema of the parts.

        Args:
            kept: The input's columns that are copied.

        Raises:
            InputRefused: If one of them cannot be beside the recipe's own.
        """

    def table(
        self, schema: pa.Schema, rows: Sequence[PromptRow], completions: Mapping[tuple[int, int], Completion], kept: pa.Table
    ) -> pa.Table:  # fmt: skip
        """Return the output rows of a shard, in the order of `rows`.

        Args:
            schema: What `schema` returned.
            rows: The shard's input rows.
            completions: (position in `rows`, sample index) → what came of a request.
            kept: The kept columns, a row per input row.
        """


def open_recipe(options: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a plan's options or fingerprint; a plan of an earlier version, which names none, is `generate`'s.

    Raises:
        KeyError: If this version has no such recipe, or an option that it needs is not there.
    """
    module, _, name = RECIPES[options.get("recipe", "generate")].partition(":")
    made: Recipe = getattr(importlib.import_module(module), name)(options)
    return made
