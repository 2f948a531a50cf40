"""The columns of scored texts: their names, types, order and meaning."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.output.schema import COLUMNS as GENERATED
from pipeline.output.schema import MEANINGS as MEANT
from pipeline.output.schema import with_kept
from pipeline.statistics import STATISTICS

VERSION = 2
"""Increased when the meaning of a column changes; plans of version 1 do not name it."""

_CHOICES = {
    "best": "whether the sum of its tokens' log-probabilities is the greatest of the row's endings",
    "best_per_token": "the same of that sum divided by the ending's tokens",
    "best_per_byte": "the same of that sum divided by the ending's bytes",
    "best_per_character": "the same of that sum divided by the ending's characters",
}
"""Per ending; of equal ones the first is the best."""

COLUMNS: dict[str, pa.DataType] = {
    "row_id": pa.string(),
    "sample_index": pa.int32(),
    "prompt": pa.string(),
    "text": pa.string(),
    "prompt_tokens": pa.int32(),
    "scored_tokens": pa.int32(),
    "bytes": pa.int64(),
    "words": pa.int64(),
    "negative_log_likelihood": pa.float64(),
    "perplexity": pa.float64(),
    "word_perplexity": pa.float64(),
    "bits_per_byte": pa.float64(),
    "is_greedy": pa.bool_(),
    "is_answer": pa.bool_(),
    **dict.fromkeys(_CHOICES, pa.bool_()),
    "unconditional_negative_log_likelihood": pa.float64(),
    "best_unconditional": pa.bool_(),
    "error_code": pa.string(),
    "error_message": pa.string(),
    "token_ids": GENERATED["token_ids"],
    **{s.column: GENERATED[s.column] for s in STATISTICS.values()},
    "top_token_ids": GENERATED["top_token_ids"],
    "top_token_logprobs": GENERATED["top_token_logprobs"],
}

MEANINGS = {
    "row_id": MEANT["row_id"],
    "sample_index": "which of the row's endings, from 0; 0 where there are none",
    "prompt": "the context, which is not scored; null where a whole text is scored",
    "text": "the text that is scored",
    "prompt_tokens": "number of tokens of the context, or of the whole text that is scored",
    "scored_tokens": "number of tokens with a log-probability",
    "bytes": "bytes of the text in UTF-8",
    "words": "words of the text, between blanks",
    "negative_log_likelihood": "minus the sum of the scored tokens' log-probabilities, nats",
    "perplexity": "exp(negative_log_likelihood / scored_tokens); null without scored tokens",
    "word_perplexity": "exp(negative_log_likelihood / words); null without words or scored tokens",
    "bits_per_byte": "negative_log_likelihood / (bytes · ln 2); null without bytes or scored tokens",
    "is_greedy": "of what follows a context: whether each token is the most likely one; null without ranks",
    "is_answer": "whether it is the right ending; null if that is unknown",
    **_CHOICES,
    "unconditional_negative_log_likelihood": "that of the ending without its context, nats",
    "best_unconditional": "whether its log-likelihood is the greatest when that without its context is taken off",
    "error_code": "null unless the row could not be scored",
    "error_message": MEANT["error_message"],
    "token_ids": "ids of the text; the first of a whole text has no statistics: null",
    **{s.column: s.meaning.replace("each generated token", "each token") for s in STATISTICS.values()},
    "top_token_ids": MEANT["top_token_ids"],
    "top_token_logprobs": MEANT["top_token_logprobs"],
}


def score_schema(
    kept: pa.Schema, *, statistics: Sequence[str], top_logprobs: int, texts: bool, paired: bool, endings: bool,
    answers: bool, unconditional: bool,
) -> pa.Schema:  # fmt: skip
    """Return the schema of the parts.

    Args:
        kept: The input columns that are copied to the output.
        statistics: Which of `STATISTICS` have a column.
        top_logprobs: How many of the most likely tokens are written per position; 0: no such columns.
        texts: Whether contexts and texts are written.
        paired: Whether what is scored follows a context.
        endings: Whether a row has several endings.
        answers: Whether the right one is known.
        unconditional: Whether they are scored without their context too.

    Raises:
        InputRefused: If a kept column has the name of an output column, or two have the same name, capitals aside.
    """
    left_out = {s.column for s in STATISTICS.values() if s.name not in statistics}
    left_out |= set() if top_logprobs else {"top_token_ids", "top_token_logprobs"}
    left_out |= set() if texts else {"prompt", "text"}
    left_out |= set() if paired else {"is_greedy"}
    left_out |= set() if endings else set(_CHOICES)
    left_out |= set() if endings and answers else {"is_answer"}
    left_out |= set() if endings and unconditional else {"unconditional_negative_log_likelihood", "best_unconditional"}
    return with_kept({name: kind for name, kind in COLUMNS.items() if name not in left_out}, kept)
