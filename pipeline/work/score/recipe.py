"""The recipe of `score`: the statistics of given tokens, put together from windows, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.output.scores.schema import MEANINGS, score_schema
from pipeline.output.scores.table import Score, build_scores
from pipeline.prompts.scored.tasks import TASKS
from pipeline.types import Completion, ErrorCode, Passage, PromptRow, Request, RowError
from pipeline.work.score.windows import Window, windows_of

_LOST = RowError(ErrorCode.WORKER_CRASH, "a window that reaches into this row was given up with the row before it")
_LOGPROBS = "token_logprobs"


class ScoreRecipe:
    """Scores the passages of each row, an output row each."""

    title = "Scored texts"
    meanings: Mapping[str, str] = MEANINGS

    def __init__(self, options: Mapping[str, Any]) -> None:
        """See `Recipe`."""
        score, source, stats = options["score"], options["source"], options["stats"]
        task = None if source["task"] is None else TASKS[source["task"]]
        endings = source["endings_column"] is not None or (task is not None and task.choice)
        self._columns = {
            "statistics": tuple(stats["columns"]),
            "top_logprobs": stats["top_logprobs"],
            "texts": options["output"]["include_prompt"],
            "paired": endings or source["completion_column"] is not None or (task is not None and task.paired),
            "endings": endings,
            "answers": source["answer_column"] is not None or task is not None,
            "unconditional": score["unconditional"],
        }
        self.samples: int | None = None if endings else 1
        self._context: int = options.get("engine", {}).get(
            "max_model_len", 0
        )  # unknown while only columns are asked for
        self._stride: int | None = None
        if score["windows"] == "sliding":
            self._stride = min(score["stride"] or max(1, self._context // 2), max(1, self._context))

    def requests(self, row: PromptRow) -> Sequence[Request]:
        """See `Recipe`: one request per window of each passage."""
        asked: list[Request] = []
        for passage in (*row.passages, *row.aside) if row.error is None else ():
            for window in self._windows(passage):
                ids = passage.token_ids[window.begin : window.end]
                asked.append(Request(row.row_id, len(asked), ids, row.sampling, window.first - window.begin))
        return asked

    def schema(self, kept: pa.Schema) -> pa.Schema:
        """See `Recipe`."""
        return score_schema(kept, **self._columns)

    def table(
        self, schema: pa.Schema, rows: Sequence[PromptRow], completions: Mapping[tuple[int, int], Completion], kept: pa.Table
    ) -> pa.Table:  # fmt: skip
        """See `Recipe`."""
        return build_scores(schema, list(self._scores(rows, completions)), kept)

    def _windows(self, passage: Passage) -> tuple[Window, ...]:
        return windows_of(passage, self._context, self._stride)

    def _scores(
        self, rows: Sequence[PromptRow], completions: Mapping[tuple[int, int], Completion]
    ) -> Iterator[Score]:  # fmt: skip
        """Yield the output rows. Rows that are stretches of one text share its windows."""
        text: Any = None
        seen: dict[Window, Completion] = {}
        for position, row in enumerate(rows):
            if row.error is not None:
                yield Score(position, 0, row, error=row.error)
                continue
            made, asked = list[Score | RowError](), 0
            for sample, passage in enumerate((*row.passages, *row.aside)):
                if passage.token_ids is not text:
                    text, seen = passage.token_ids, {}
                for window in self._windows(passage):
                    seen[window] = completions[position, asked]
                    asked += 1
                due = [(w, seen.get(w)) for w in self._windows(replace(passage, leads=True))]
                made.append(_score(position, sample, row, passage, due))
            error = next((one for one in made if isinstance(one, RowError)), None)
            if error is not None:
                yield Score(position, 0, row, error=error)
            else:
                yield from _compared([one for one in made if isinstance(one, Score)], len(row.passages))


def _score(
    position: int, sample: int, row: PromptRow, passage: Passage, due: Sequence[tuple[Window, Completion | None]]
) -> Score | RowError:  # fmt: skip
    """Put the statistics of a passage together from its windows."""
    count = passage.stop - passage.start
    scored, values = np.zeros(count, np.bool_), dict[str, Any]()
    for window, done in due:
        if done is None or done.error is not None:
            return _LOST if done is None or done.error is None else done.error
        begin, end = max(window.first, passage.start), min(window.end, passage.stop)
        scored[begin - passage.start : end - passage.start] = True
        for name, found in done.statistics.items():
            if name not in values:
                values[name] = np.zeros((count, *found.shape[1:]), found.dtype)
            values[name][begin - passage.start : end - passage.start] = found[begin - window.first : end - window.first]
    likelihood = float(values[_LOGPROBS][scored].sum(dtype=np.float64)) if values else 0.0
    return Score(position, sample, row, passage, None, values, scored, likelihood)


def _compared(scores: Sequence[Score], count: int) -> list[Score]:
    """Say of each ending whether it is the best; those after the first `count` are the endings without their context."""
    endings, aside = scores[:count], [s.likelihood for s in scores[count:]]
    sums = np.array([s.likelihood for s in endings])
    sizes = np.array([s.passage.size for s in endings if s.passage is not None])
    by = {
        "best": sums,
        "best_per_token": sums / np.maximum(1, [s.tokens for s in endings]),
        "best_per_byte": sums / np.maximum(1, sizes[:, 0]),
        "best_per_character": sums / np.maximum(1, sizes[:, 1]),
        **({"best_unconditional": sums - aside} if aside else {}),
    }
    best = {name: int(np.argmax(value)) for name, value in by.items()}
    return [
        replace(s, best={name: at == number for name, at in best.items()}, aside=aside[number] if aside else None)
        for number, s in enumerate(endings)
    ]
