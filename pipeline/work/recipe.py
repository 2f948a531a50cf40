"""Defines what a job makes of a row, and lists the recipes by the names of their jobs.

Planning, dispatch, replicas, commits, resume and `verify` are the same for all of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from pipeline.types import Completion, PromptRow, Request

RECIPES = {"generate": "pipeline.work.generate:Generate", "score": "pipeline.work.score.recipe:ScoreRecipe"}
"""Job → its recipe. The module is imported when the recipe is opened."""


class Recipe(Protocol):
    """Makes requests of an input row, and output rows of the engine's completions.

    It is constructed from the options that decide the output's bytes. The plan keeps these, so a finished output leads back to
    its recipe. Every output row has `row_id`, `sample_index`, `prompt_tokens`, `error_code` and `error_message`; the rows
    of one input row follow each other with `sample_index` from 0 on. An input row with an error has output rows too.

    Attributes:
        title: What the output is, for the dataset card.
        meanings: Column → what it holds, for the dataset card.
        samples: Output rows per input row; None: it differs from row to row.
    """

    title: str
    meanings: Mapping[str, str]
    samples: int | None

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Read the plan's options.

        Raises:
            KeyError: If one is missing.
        """

    def requests(self, row: PromptRow) -> Sequence[Request]:
        """Return a row's requests, `sample_index` from 0 on; none for a row with an error."""

    def schema(self, kept: pa.Schema) -> pa.Schema:
        """Return the schema of the parts.

        Args:
            kept: The input columns that are copied to the output.

        Raises:
            InputRefused: If one of them conflicts with the recipe's own columns.
        """

    def table(
        self, schema: pa.Schema, rows: Sequence[PromptRow], completions: Mapping[tuple[int, int], Completion], kept: pa.Table
    ) -> pa.Table:  # fmt: skip
        """Return the output rows of a shard, in the order of `rows`.

        Args:
            schema: What `schema` returned.
            rows: The shard's input rows.
            completions: (position in `rows`, sample index) → completion.
            kept: The kept columns, one row per input row.
        """


def open_recipe(options: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a plan's options or fingerprint name; plans of earlier versions name none and mean `generate`.

    Raises:
        KeyError: If this version has no such recipe, or an option that it needs is missing.
    """
    module, _, name = RECIPES[options.get("recipe", "generate")].partition(":")
    made: Recipe = getattr(importlib.import_module(module), name)(options)
    return made
