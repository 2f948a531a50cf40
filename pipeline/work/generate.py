"""The recipe of `generate`: completions of a prompt, with the statistics of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.output.schema import MEANINGS, output_schema
from pipeline.output.table import build_table
from pipeline.types import Completion, PromptRow, Request


class Generate:
    """`n` completions of each prompt, an output row each."""

    title = "Generated texts"
    meanings: Mapping[str, str] = MEANINGS

    def __init__(self, options: Mapping[str, Any]) -> None:
        """See `Recipe`."""
        stats = options["stats"]
        self._columns = {
            "statistics": tuple(stats["columns"]),
            "top_logprobs": stats["top_logprobs"],
            "prompt_logprobs": stats["prompt_logprobs"],
            "include_prompt": options["output"]["include_prompt"],
            "messages": options["output"].get("messages", False),
        }
        varies = options["source"]["sampling_column"] is not None
        self.samples: int | None = None if varies else options["sampling"]["n"]

    def requests(self, row: PromptRow) -> Sequence[Request]:
        """See `Recipe`."""
        return row.requests()

    def schema(self, kept: pa.Schema) -> pa.Schema:
        """See `Recipe`."""
        return output_schema(kept, **self._columns)

    def table(
        self, schema: pa.Schema, rows: Sequence[PromptRow], completions: Mapping[tuple[int, int], Completion], kept: pa.Table
    ) -> pa.Table:  # fmt: skip
        """See `Recipe`."""
        return build_table(schema, rows, completions, kept)
