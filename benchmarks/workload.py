"""The workloads on which engines are compared: prompts as token ids, and how many tokens to generate.

    uniform    32 prompt tokens, 64 new ones
    mixed      log-normal lengths: prompts around 24 (4 to 192), new tokens around 40 (4 to 256), as a nightly job has them
    few_shot   prompts that share their first 256 tokens, with 16 of their own, and 16 new ones
    prefill    512 prompt tokens, 1 new one

Every engine must ignore the end token and sample from the whole vocabulary at temperature 1, so that all generate the same
number of tokens. Imports only the standard library: every engine's environment reads it.
"""

from __future__ import annotations

import math
import random

Work = list[tuple[list[int], int]]
"""(prompt token ids, new tokens) of each request."""

PROMPT_IDS = 50_000
"""GPT-2's ids below its special token."""
WORKLOADS = ("uniform", "mixed", "few_shot", "prefill")
REQUESTS = {"uniform": 64, "mixed": 128, "few_shot": 64, "prefill": 4}
_HEADER = 256
_LENGTHS = {"uniform": (32, 64), "few_shot": (16, 16), "prefill": (512, 1)}


def make(name: str, requests: int, seed: int = 0) -> Work:
    """Return `requests` requests of a workload; the same arguments give the same ones.

    Raises:
        ValueError: If there is no workload of that name.
    """
    if name not in WORKLOADS:
        raise ValueError(f"workload={name!r}: must be one of {', '.join(WORKLOADS)}")
    rng = random.Random(f"{name}/{seed}")

    def length(median: float, sigma: float, low: int, high: int) -> int:
        return min(high, max(low, round(math.exp(rng.gauss(math.log(median), sigma)))))

    def ids(count: int) -> list[int]:
        return [rng.randrange(PROMPT_IDS) for _ in range(count)]

    header = ids(_HEADER) if name == "few_shot" else []
    made = []
    for _ in range(requests):
        prompt, new = (length(24, 0.8, 4, 192), length(40, 0.9, 4, 256)) if name == "mixed" else _LENGTHS[name]
        made.append((header + ids(prompt), new))
    return made


def longest(work: Work) -> int:
    """Positions of the longest prompt with its new tokens."""
    return max(len(prompt) + new for prompt, new in work)
