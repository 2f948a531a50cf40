"""What a plan says about the rows of its output: their columns, ids, samples and bounds.

It does not know what is in any file but the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.output.schema import output_schema
from pipeline.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Wanted:
    """What holds for every row.

    Attributes:
        plan: The plan.
        statistics: The statistics that have a column.
        top_logprobs: The most likely tokens written at each position; 0: none.
        prompt_logprobs: Whether the prompt's log-probabilities are written.
        include_prompt: Whether the prompt is written.
        keep_columns: Names of the columns copied from the input.
        samples: Output rows an input row; none where a column of the input decides.
        max_tokens: Generated tokens at most; none likewise.
        max_model_len: Tokens of prompt and generation at most.
        numbered: Whether row ids are made of file and row, so that the plan tells them.
    """

    plan: Plan
    statistics: tuple[str, ...]
    top_logprobs: int
    prompt_logprobs: bool
    include_prompt: bool
    keep_columns: tuple[str, ...]
    samples: int | None
    max_tokens: int | None
    max_model_len: int
    numbered: bool

    @classmethod
    def of(cls, plan: Plan) -> Wanted:
        """Read a plan's fingerprint.

        Raises:
            KeyError: If it is not that of a `generate`.
        """
        made = plan.fingerprint
        stats, source, sampling = made["stats"], made["source"], made["sampling"]
        varies = source["sampling_column"] is not None
        return cls(
            plan, tuple(stats["columns"]), stats["top_logprobs"], stats["prompt_logprobs"], made["output"]["include_prompt"],
            tuple(source["keep_columns"]), None if varies else sampling["n"], None if varies else sampling["max_tokens"],
            made["engine"]["max_model_len"], source["id_column"] is None,
        )  # fmt: skip

    def fault_of(self, schema: pa.Schema, kept: pa.Schema | None) -> str | None:
        """Say how a part's schema differs from the planned one, if it does.

        Args:
            schema: The part's.
            kept: The columns copied from the input as another part has them; none: their types are free.
        """
        names = self._schema(pa.schema([(name, pa.null()) for name in self.keep_columns])).names
        if schema.names != names:
            return f"its columns are {', '.join(schema.names)}, not {', '.join(names)}"
        planned = self._schema(self.kept(schema) if kept is None else kept)
        for field, plan in zip(schema, planned, strict=True):
            if field.type != plan.type:
                before = " as in the parts before" if field.name in self.keep_columns else ""
                return f"column {field.name} is {field.type}, not {plan.type}{before}"
        return None

    def kept(self, schema: pa.Schema) -> pa.Schema:
        """The columns of a part that are copied from the input."""
        return pa.schema([schema.field(name) for name in self.keep_columns])

    def _schema(self, kept: pa.Schema) -> pa.Schema:
        return output_schema(
            kept, statistics=self.statistics, top_logprobs=self.top_logprobs, prompt_logprobs=self.prompt_logprobs,
            include_prompt=self.include_prompt,
        )  # fmt: skip

    def row_ids(self, index: int) -> Iterator[str] | None:
        """The row ids of a shard in their order; none where the input has them."""
        if not self.numbered:
            return None
        segments = self.plan.shard(index).segments
        return (f"{self.plan.files[s.file].name}:{row}" for s in segments for row in range(s.start, s.stop))
