"""Estimates the work of a row, on the careful side, and from it the number of rows in a part.

A pure function of sizes: the same job on the same machine has the same parts each time.
"""

from __future__ import annotations

from dataclasses import dataclass

AT_RISK = 600.0
"""Most seconds of work that a stop may lose."""
SHARDS_AT_RISK = 2
"""Shards in flight per replica."""
MOST_ROWS = 1000
"""Most rows per part, even if they take less than that; more make a part large and save nothing."""
CORE_SPEED = 10e9
"""Multiply-adds per second of one CPU core: a third of a core with AVX-512, because some are slower."""
GPU_SPEED = 20e12
"""Multiply-adds per second of a decoding GPU."""
BYTES_A_TOKEN = 1
"""Bytes of a compressed file per prompt token. Text has more, so this is on the careful side. Repeated text takes few bytes,
but is not computed again either."""


@dataclass(frozen=True, slots=True)
class Effort:
    """The estimated work of a row.

    Attributes:
        parameters: Number of the model's parameters.
        prompt_tokens: Tokens of a row's prompt.
        new_tokens: Most tokens generated for a row, all samples together.
        speed: Multiply-adds per second of a replica.
    """

    parameters: float
    prompt_tokens: float
    new_tokens: float
    speed: float

    @property
    def row_seconds(self) -> float:
        """Seconds that a replica works on a row: one multiply-add per parameter and token."""
        return 2 * self.parameters * (self.prompt_tokens + self.new_tokens) / self.speed

    @property
    def rows_per_shard(self) -> int:
        """Rows per shard such that a stop loses at most AT_RISK; a power of two below MOST_ROWS, at least 1."""
        rows = AT_RISK / SHARDS_AT_RISK / max(self.row_seconds, 1e-12)
        return MOST_ROWS if rows >= MOST_ROWS else 1 << max(0, int(rows).bit_length() - 1)
