"""Rows with sampling parameters by the names that people know, and the two ways to choose tokens."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine.plain.sampler import SamplingRows
from tests.engine.small.attention_cases import needs_kernels
from tests.engine.small.tiny_models import without_kernels

WAYS = [pytest.param("compiled", marks=needs_kernels), "torch"]
Array = np.ndarray[Any, np.dtype[Any]]
LAST = 1 - 2.0**-53
"""The largest number that the noise can be."""


RULES: list[dict[str, Any]] = [
    {}, {"temperature": 0.5}, {"temperature": 2.5}, {"top_k": 7}, {"top_k": 1}, {"top_p": 0.6}, {"min_p": 0.05},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.7}, {"temperature": 0.8, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 3.0, "top_k": 100, "top_p": 0.95, "min_p": 0.1}, {"temperature": 30.0, "top_p": 0.99},
    {"temperature": 20.0, "top_k": 600},
]  # fmt: skip


def chosen_by(way: str) -> contextlib.AbstractContextManager[None]:
    """Tokens are chosen by the compiled kernel, or by torch's operations."""
    return contextlib.nullcontext() if way == "compiled" else without_kernels()


def rows_of(
    count: int, vocab: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
    uniform: Array | None = None,
) -> SamplingRows:  # fmt: skip
    """`count` rows with the same parameters, by the names that people know."""
    noise = np.full(count, 0.5) if uniform is None else uniform
    greedy = temperature == 0
    return SamplingRows(
        torch.full((count,), greedy), torch.full((count,), 1.0 if greedy else temperature),
        torch.full((count,), top_k or vocab), torch.full((count,), top_p),
        torch.full((count,), float(np.log(min_p)) if min_p else -torch.inf), torch.from_numpy(noise),
        truncates=bool(top_k or top_p < 1 or min_p), all_greedy=greedy,
    )  # fmt: skip
