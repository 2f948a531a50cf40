"""Finds the rows to show: part after part, and only what is needed of each row group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigurationError, PlanRefused
from pipeline.inspect.config import ShowConfig
from pipeline.inspect.output import Output, open_output
from pipeline.inspect.show.where import Term, holds, parse
from pipeline.planning.plan import Plan
from pipeline.wording import brief

WIDE = ("prompt_token_ids", "prompt_token_logprobs", "top_token_ids", "top_token_logprobs", "messages")
"""Columns that are not shown."""
OF_TOKENS = ("token_ids", "token_logprobs", "token_entropies", "token_ranks")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rows that are asked for.

    Attributes:
        output: The output.
        plan: Its plan; None if it cannot be read.
        parts: Its committed parts.
        schema: The columns of the first of them.
        terms: What holds for every row.
    """

    output: Output
    plan: Plan | None
    parts: tuple[str, ...]
    schema: pa.Schema
    terms: tuple[Term, ...]

    @property
    def missing_parts(self) -> int:
        """Planned parts that are not committed."""
        return 0 if self.plan is None else self.plan.shard_count - len(self.parts)

    def rows(self, *, tokens: bool) -> Iterator[dict[str, Any]]:
        """Yield the rows in their order, each as column → value.

        Args:
            tokens: With the lists of their tokens.

        Raises:
            PlanRefused: If a part is damaged.
        """
        left_out = WIDE if tokens else (*WIDE, *OF_TOKENS)
        columns = [name for name in self.schema.names if name not in left_out]
        asked = list(dict.fromkeys(term.column for term in self.terms))
        for part in self.parts:
            for number in range(self.output.footer(part).groups):
                places = None
                if self.terms:
                    places = np.flatnonzero(holds(self.terms, self.output.group(part, number, asked or ["row_id"])))
                    if not len(places):
                        continue
                found: Any = self.output.group(part, number, columns)
                found = found if places is None else found.take(pa.array(places))
                for start in range(0, found.num_rows, 20):
                    yield from found.slice(start, 20).to_pylist()


def choose(config: ShowConfig) -> Chosen:
    """Open an output and check what is asked of it.

    Raises:
        PlanRefused: If there is no output, or nothing is committed yet.
        ConfigurationError: If the filter cannot be used.
    """
    output = open_output(config.output.path)
    plan = None
    if output.planned:
        try:
            plan = output.plan()
        except (ValueError, TypeError, KeyError):
            plan = None  # the parts can be shown all the same
    parts = output.committed(plan)
    if not parts:
        raise PlanRefused(
            f"output.path={config.output.path}: no part is committed yet; a run commits its first one soon"
        )
    schema = output.footer(parts[0]).schema
    terms = [] if config.where is None else parse(config.where, schema)
    if config.row_id is not None:
        if "row_id" not in schema.names:
            raise ConfigurationError(f"row_id={brief(config.row_id)}: the output has no column row_id")
        terms.insert(0, Term("row_id", "=", pa.scalar(config.row_id)))
    return Chosen(output, plan, tuple(parts), schema, tuple(terms))
