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
    """The expectations for every row.

    Attributes:
        plan: The plan.
        recipe: The recipe, which knows the columns and the number of output rows per input row.
        top_logprobs: Number of most likely tokens written per position; 0: none.
        keep_columns: Names of the columns copied from the input.
        max_tokens: Most generated tokens; None if a column of the input decides.
        max_model_len: Most tokens of prompt plus generation.
        numbered: Whether row ids are made of file and row number, so that the plan determines them.
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
            None if varies else made.get("sampling", {}).get("max_tokens"), made["engine"]["max_model_len"], _numbered(source),
        )  # fmt: skip

    def fault_of(self, schema: pa.Schema, kept: pa.Schema | None) -> str | None:
        """Return how a part's schema differs from the planned one, or None.

        Args:
            schema: The part's schema.
            kept: The columns copied from the input, as in another part; None: their types are free.
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
        """Return the columns of a part that are copied from the input."""
        return pa.schema([schema.field(name) for name in self.keep_columns])

    def row_ids(self, index: int) -> Iterator[str] | None:
        """Return the row ids of a shard in order; None if the input determines them."""
        if not self.numbered:
            return None
        segments = self.plan.shard(index).segments
        return (f"{self.plan.files[s.file].name}:{row}" for s in segments for row in range(s.start, s.stop))


def _numbered(source: Mapping[str, Any]) -> bool:
    """Whether ids are made of file and row number; plans of earlier versions have no id template."""
    return source["id_column"] is None and source.get("id_template") is None
