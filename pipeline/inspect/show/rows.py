"""Finds the rows to show: part after part, and only what is needed of each row group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigurationError
from pipeline.inspect.config import ShowConfig
from pipeline.inspect.output import Committed, open_committed
from pipeline.inspect.show.where import Term, holds, parse
from pipeline.wording import brief

WIDE = ("prompt_token_ids", "prompt_token_logprobs", "top_token_ids", "top_token_logprobs", "messages")
"""Columns that are not shown."""
OF_TOKENS = ("token_ids", "token_logprobs", "token_entropies", "token_ranks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen(Committed):
    """The rows that are asked for.

    Attributes:
        schema: The columns of the first part.
        terms: What holds for every row.
    """

    schema: pa.Schema
    terms: tuple[Term, ...]

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
    found = open_committed(config.output.path)  # parts can be shown without a plan
    schema = found.output.footer(found.parts[0]).schema
    terms = [] if config.where is None else parse(config.where, schema)
    if config.row_id is not None:
        if "row_id" not in schema.names:
            raise ConfigurationError(f"row_id={brief(config.row_id)}: the output has no column row_id")
        terms.insert(0, Term("row_id", "=", pa.scalar(config.row_id)))
    return Chosen(
        output=found.output, plan=found.plan, without_plan=found.without_plan, parts=found.parts,
        schema=schema, terms=tuple(terms),
    )  # fmt: skip
