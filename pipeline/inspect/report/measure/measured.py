"""The pass over an output's rows, from which all that a report says about them is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.inspect.batch import Batch, Lists
from pipeline.inspect.output import Output
from pipeline.inspect.report.measure.distribution import Distribution
from pipeline.inspect.report.measure.examples import Examples, places
from pipeline.inspect.report.measure.phrases import Phrases
from pipeline.inspect.report.measure.tally import Tally
from pipeline.inspect.report.measure.twins import Twins

TOKENS_AT_ONCE = 1 << 19
"""Tokens that are looked at together, so that rows of any length take bounded memory."""
FOOTERS = 5000
"""Parts whose footers are read before the pass, to choose the rows to show; of more parts evenly spread ones."""
_COLUMNS = (
    "row_id", "sample_index", "prompt", "text", "finish_reason", "prompt_tokens", "completion_tokens", "error_code",
    "error_message", "token_ids", "token_logprobs", "token_entropies", "token_ranks", "top_token_logprobs",
)  # fmt: skip
_OF_EXAMPLES = (*_COLUMNS, "top_token_ids", "stop_reason", "negative_log_likelihood")


@dataclass(frozen=True)
class Measured:
    """What the pass counted; see the classes.

    `facts` are those of the first part's environment, for an output without a manifest. `columns` are the parts' columns.
    """

    tally: Tally
    distribution: Distribution
    phrases: Phrases
    twins: Twins
    examples: Examples
    parts: int
    facts: Mapping[str, Any]
    columns: frozenset[str]


def measure(output: Output) -> Measured:
    """Read all parts once.

    Raises:
        PlanRefused: If a part is damaged.
    """
    parts = output.parts()
    known = [(name, output.footer(name)) for name in parts[:: 1 + len(parts) // FOOTERS]]
    sizes = [(name, footer.rows) for name, footer in known]
    tally, distribution, phrases, twins, examples = Tally(), Distribution(), Phrases(), Twins(), Examples(places(sizes))
    columns: set[str] = set()
    for part in parts:
        wanted = _OF_EXAMPLES if examples.begin(part) else _COLUMNS
        for found in output.batches(part, wanted):
            columns.update(found.schema.names)
            for batch, ids in _pieces(Batch(found)):
                tally.add(batch, ids)
                distribution.add(batch, len(ids.values))
                phrases.add(batch, ids)
                twins.add(batch, ids)
                examples.add(batch)
    facts = known[0][1].environment if known else {}
    return Measured(tally, distribution, phrases, twins, examples, len(parts), facts, frozenset(columns))


def _pieces(whole: Batch) -> Iterator[tuple[Batch, Lists]]:
    """Yield a batch in pieces of bounded size, with their token ids."""
    if not whole.rows.num_rows:
        return
    ends = np.cumsum(whole.lists("token_ids").lengths) if whole.has("token_ids") else np.zeros(whole.rows.num_rows)
    start = 0
    while start < whole.rows.num_rows:
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + TOKENS_AT_ONCE, side="right")))
        batch = Batch(whole.rows.slice(start, stop - start))
        yield batch, batch.lists("token_ids") if batch.has("token_ids") else _none(stop - start)
        start = stop


def _none(rows: int) -> Lists:
    empty = np.zeros(0, np.int64)
    zeros = np.zeros(rows, np.int64)
    return Lists(np.ones(rows, np.bool_), zeros, empty, np.zeros(0, np.bool_), empty, zeros)
