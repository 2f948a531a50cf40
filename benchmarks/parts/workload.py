"""The workloads on which engines are compared: prompts as token ids, how many tokens to generate, and how often.

    uniform    32 prompt tokens, 64 new ones
    mixed      log-normal lengths: prompts around 24 (4 to 192), new tokens around 40 (4 to 256), as a nightly job has them
    few_shot   prompts that share their first 600 tokens, with 16 of their own, and 16 new ones
    samples    128 prompt tokens, and 8 completions of 64 tokens for each prompt
    classify   a shared instruction of 60 tokens, texts around 140 (32 to 400), and one of six labels as the answer, 2 tokens
    chat       every turn of conversations of four turns, after all that was said before: a shared system prompt of 150
               tokens, users' turns around 24 (4 to 80), answers around 80 (16 to 128)
    prefill    512 prompt tokens, 1 new one

Every engine must ignore the end token and sample from the whole vocabulary at temperature 1, so that all generate the same
number of tokens. Imports only the standard library: every engine's environment reads it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Work = list[tuple[list[int], int]]
"""(prompt token ids, new tokens) of each request."""

PROMPT_IDS = 50_000
"""GPT-2's ids below its special token."""
REQUESTS = {"uniform": 64, "mixed": 128, "few_shot": 64, "samples": 16, "classify": 64, "chat": 64, "prefill": 4}
"""Workload → its number of requests."""
WORKLOADS = tuple(REQUESTS)
SHARING = ("few_shot", "samples", "classify", "chat")
"""Workloads in which tokens are read once or many times: every engine that has a prefix cache runs them with it."""
TURNS = 4


@dataclass(frozen=True, slots=True)
class Answers:
    """How each prompt is answered: `samples` times, and if `choice` is not empty, with one of its texts."""

    samples: int = 1
    choice: tuple[str, ...] = ()


_ANSWERS = {"samples": Answers(samples=8), "classify": Answers(choice=("A1", "A2", "B1", "B2", "C1", "C2"))}
_LENGTHS = {"uniform": (32, 64), "few_shot": (16, 16), "samples": (128, 64), "prefill": (512, 1)}
_SHARED = {"few_shot": 600, "classify": 60, "chat": 150}


def answers(name: str) -> Answers:
    """How the prompts of a workload are answered.

    The labels of `classify` are a letter and a digit, which no usual tokenizer puts into one token: two tokens each, in
    whatever way an engine comes to spell them.
    """
    return _ANSWERS.get(name, Answers())


def make(name: str, requests: int, seed: int = 0) -> Work:
    """Return `requests` requests of a workload; the same arguments give the same ones.

    Raises:
        ValueError: If there is no workload of that name.
    """
    if name not in WORKLOADS:
        raise ValueError(f"workload={name!r}: must be one of {', '.join(WORKLOADS)}")
    rng = random.Random(f"{name}/{seed}")
    header = _ids(rng, _SHARED.get(name, 0))
    if name == "chat":
        turns = _turns(rng, header)
        return [next(turns) for _ in range(requests)]
    made = []
    for _ in range(requests):
        if name == "mixed":
            prompt, new = _length(rng, 24, 0.8, 4, 192), _length(rng, 40, 0.9, 4, 256)
        elif name == "classify":
            prompt, new = _length(rng, 140, 0.4, 32, 400), 2
        else:
            prompt, new = _LENGTHS[name]
        made.append((header + _ids(rng, prompt), new))
    return made


def _turns(rng: random.Random, header: list[int]) -> Iterator[tuple[list[int], int]]:
    """The turns of one conversation after the other. What was answered before is made up: it has to be the same for all."""
    while True:
        said = list(header)
        for _ in range(TURNS):
            said += _ids(rng, _length(rng, 24, 0.7, 4, 80))
            new = _length(rng, 80, 0.5, 16, 128)
            yield list(said), new
            said += _ids(rng, new)


def _length(rng: random.Random, median: float, sigma: float, low: int, high: int) -> int:
    return min(high, max(low, round(math.exp(rng.gauss(math.log(median), sigma)))))


def _ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(PROMPT_IDS) for _ in range(count)]


def longest(work: Work) -> int:
    """Positions of the longest prompt with its new tokens."""
    return max(len(prompt) + new for prompt, new in work)


def distinct_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Prompt tokens that have to be read if what prompts have in common at their beginnings is read once."""
    ordered = sorted(map(list, prompts))
    return sum(map(len, prompts)) - sum(_in_common(*pair) for pair in pairwise(ordered))


def _in_common(left: Sequence[int], right: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
