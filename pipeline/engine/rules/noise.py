"""Sampling noise as a pure function of (seed, row_id, sample_index, position).

With one stream per batch, a row's noise would change with its neighbours, or be the same for every prompt. Instead, every
completion has its own counter-based generator: Philox 4x64 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", 2011), keyed by a hash of (seed, row_id, sample_index); position t takes the t-th word of its stream.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stream_key(seed: int, row_id: str, sample_index: int) -> int:
    """Return the 128-bit key of a completion's stream; different arguments give unrelated keys (BLAKE2b)."""
    name = f"{seed}\x00{sample_index}\x00{row_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=16, person=b"promptmill").digest(), "little")


def uniforms(seed: int, row_id: str, sample_index: int, count: int) -> NDArray[np.float64]:
    """Return uniform random numbers for positions 0 to count - 1, float64 [count].

    They are in [0, 1), with 53 random bits each. So 1.0, which would select an impossible token, cannot occur.
    A larger `count` extends the array and keeps its beginning.
    """
    words = np.random.Philox(key=stream_key(seed, row_id, sample_index)).random_raw(count)
    return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
