"""What a plan says about the rows of its output: their columns, ids, samples and bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.planning.plan import Plan
from pipeline.work.recipe import Recipe, open_recipe


@dataclass(frozen=True, slots=True)
class Wanted:
    """What holds for every row.

    Attributes:
        plan: The plan.
        recipe: What was made of a row: it knows the columns, and how many output rows there are per input row.
        top_logprobs: The most likely tokens written at each position; 0: none.
        keep_columns: Names of the columns copied from the input.
        max_tokens: Generated tokens at most; None where a column of the input decides.
        max_model_len: Tokens of prompt and generation at most.
        numbered: Whether row ids are made of file and row, so that the plan tells them.
    """

    plan: Plan
    recipe: Recipe
    top_logprobs: int
    keep_columns: tuple[str, ...]
    max_tokens: int | None
    max_model_len: int
    numbered: bool

    @classmethod
    def of(cls, plan: Plan) -> Wanted:
        """Read a plan's fingerprint.

        Raises:
            KeyError: If it lacks what every plan has, or this version does not know its recipe.
        """
        made = plan.fingerprint
        source = made["source"]
        varies = source["sampling_column"] is not None
        return cls(
            plan, open_recipe(made), made["stats"]["top_logprobs"], tuple(source["keep_columns"]),
            None if varies else made["sampling"]["max_tokens"], made["engine"]["max_model_len"], _numbered(source),
        )  # fmt: skip

    def fault_of(self, schema: pa.Schema, kept: pa.Schema | None) -> str | None:
        """Say how a part's schema differs from the planned one, if it does.

        Args:
            schema: The part's.
            kept: The columns copied from the input as another part has them; none: their types are free.
        """
        names = self.recipe.schema(pa.schema([(name, pa.null()) for name in self.keep_columns])).names
        if schema.names != names:
            return f"its columns are {', '.join(schema.names)}, not {', '.join(names)}"
        planned = self.recipe.schema(self.kept(schema) if kept is None else kept)
        for field, plan in zip(schema, planned, strict=True):
            if field.type != plan.type:
                before = " as in the parts before" if field.name in self.keep_columns else ""
                return f"column {field.name} is {field.type}, not {plan.type}{before}"
        return None

    def kept(self, schema: pa.Schema) -> pa.Schema:
        """The columns of a part that are copied from the input."""
        return pa.schema([schema.field(name) for name in self.keep_columns])

    def row_ids(self, index: int) -> Iterator[str] | None:
        """The row ids of a shard in their order; none where the input has them."""
        if not self.numbered:
            return None
        segments = self.plan.shard(index).segments
        return (f"{self.plan.files[s.file].name}:{row}" for s in segments for row in range(s.start, s.stop))


def _numbered(source: Mapping[str, Any]) -> bool:
    """Whether ids are those of file and row; plans of earlier versions know no template of ids."""
    return source["id_column"] is None and source.get("id_template") is None
