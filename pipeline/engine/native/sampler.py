"""The compiled sampler: from logits to tokens and the quantities of their statistics; see `sampler.c`."""

from __future__ import annotations

from ctypes import Structure, byref, c_void_p

import torch

from pipeline.engine.native import needed

_LANES = 16


class _Rules(Structure):
    _fields_ = tuple((name, c_void_p) for name in ("greedy", "temperature", "top_p", "log_min_p", "top_k", "uniform"))


class _Measures(Structure):
    _fields_ = tuple((name, c_void_p) for name in ("most", "log_sum", "entropy", "rank", "finite"))


def choose_tokens(
    logits: torch.Tensor, greedy: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, log_min_p: torch.Tensor,
    top_k: torch.Tensor, uniform: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Choose a token for each row of float32 logits [B, V], by the rules of `SamplingRows`.

    Returns:
        (tokens int64 [B], the least logit, after temperature, that was kept in each row [B]).
    """
    rules = [t.contiguous() for t in (greedy, temperature, top_p, log_min_p, top_k, uniform)]
    kinds = [torch.bool, torch.float32, torch.float32, torch.float32, torch.int64, torch.float64]
    assert [t.dtype for t in rules] == kinds and logits.dtype == torch.float32
    logits, (rows, vocabulary) = logits.contiguous(), logits.shape
    threads, each = torch.get_num_threads(), (vocabulary // _LANES + 2) * _LANES
    room, tokens = torch.empty(threads, 3, each), torch.empty(rows, dtype=torch.int64)
    thresholds = torch.empty(rows)
    needed().choose_tokens(
        logits.data_ptr(), rows, vocabulary, byref(_Rules(*(t.data_ptr() for t in rules))), tokens.data_ptr(),
        thresholds.data_ptr(), room.data_ptr(), each, threads,
    )  # fmt: skip
    return tokens, thresholds


def measure_tokens(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Measure rows of float32 logits [B, V] with a token [B] each.

    Returns:
        Five of [B]: the largest logit, the logarithm of the sum of exp(logit - largest), the entropy (nats), the token's rank
        (int32), whether every logit is finite (bool).
    """
    assert (logits.dtype, tokens.dtype, tokens.shape) == (torch.float32, torch.int64, logits.shape[:1])
    logits, tokens, (rows, vocabulary) = logits.contiguous(), tokens.contiguous(), logits.shape
    found = (*torch.empty(3, rows), torch.empty(rows, dtype=torch.int32), torch.empty(rows, dtype=torch.bool))
    needed().measure_tokens(
        logits.data_ptr(), rows, vocabulary, tokens.data_ptr(), byref(_Measures(*(t.data_ptr() for t in found))),
        torch.get_num_threads(),
    )  # fmt: skip
    return found
