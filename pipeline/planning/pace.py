"""How much work a row is, by a careful estimate, and so how many rows make a part that a stop may lose.

A pure function of sizes: the same job on the same machine has the same parts each time.
"""

from __future__ import annotations

from dataclasses import dataclass

AT_RISK = 600.0
"""Seconds of work that a stop may lose, at most."""
SHARDS_AT_RISK = 2
"""Shards that a replica has in hand."""
MOST_ROWS = 1000
"""Rows of a part that takes less than that anyway; more make a part large and save nothing."""
CORE_SPEED = 10e9
"""Multiplications and additions a second of one processor core: a third of what one with AVX-512 does, as some do less."""
GPU_SPEED = 20e12
"""The same of a GPU that decodes."""
BYTES_A_TOKEN = 1
"""Bytes of a compressed file that hold a token of a prompt. Text has more, so this is careful; what is repeated is
compressed away, and is not computed again either."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a row takes.

    Attributes:
        parameters: Of the model.
        prompt_tokens: Of a row's prompt.
        new_tokens: That are generated for it, at most, all samples together.
        speed: Multiplications and additions a second of a replica.
    """

    parameters: float
    prompt_tokens: float
    new_tokens: float
    speed: float

    @property
    def row_seconds(self) -> float:
        """Seconds that a replica works on a row: a multiplication and an addition a parameter and token."""
        return 2 * self.parameters * (self.prompt_tokens + self.new_tokens) / self.speed

    @property
    def rows_per_shard(self) -> int:
        """Rows of a shard such that a stop loses no more than AT_RISK; a power of two below MOST_ROWS, at least 1."""
        rows = AT_RISK / SHARDS_AT_RISK / max(self.row_seconds, 1e-12)
        return MOST_ROWS if rows >= MOST_ROWS else 1 << max(0, int(rows).bit_length() - 1)
