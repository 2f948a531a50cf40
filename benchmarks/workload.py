"""The workloads on which engines are compared: prompts as token ids, and how many tokens to generate.

    uniform   32 prompt tokens, 64 new ones
    mixed     log-normal lengths: prompts around 24 (4 to 192), new tokens around 40 (4 to 256), as a nightly job has them

Every engine must ignore the end token and sample from the whole vocabulary at temperature 1, so that all generate the same
number of tokens.
"""

from __future__ import annotations

import math
import random

PROMPT_IDS = 50_000
"""GPT-2's ids below its special token."""
WORKLOADS = ("uniform", "mixed")


def make(name: str, requests: int, seed: int = 0) -> list[tuple[list[int], int]]:
    """Return (prompt token ids, new tokens) of each request; the same arguments give the same workload."""
    rng = random.Random(f"{name}/{seed}")

    def length(median: float, sigma: float, low: int, high: int) -> int:
        return min(high, max(low, round(math.exp(rng.gauss(math.log(median), sigma)))))

    made = []
    for _ in range(requests):
        prompt, new = (32, 64) if name == "uniform" else (length(24, 0.8, 4, 192), length(40, 0.9, 4, 256))
        made.append(([rng.randrange(PROMPT_IDS) for _ in range(prompt)], new))
    return made
