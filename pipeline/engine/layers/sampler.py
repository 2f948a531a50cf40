"""Chooses tokens from logits, by one of three implementations.

These are compiled code (`native.sampler`), a GPU's kernels (`gpu.sampler`), and torch's operations (`plain.sampler`) where
neither of the others serves. In all of them, a token does not depend on other rows. They agree up to rounding.
"""

from __future__ import annotations

import torch

from pipeline.engine import gpu, native
from pipeline.engine.gpu import sampler as gpu_sampler
from pipeline.engine.native.sampler import choose_tokens
from pipeline.engine.plain.sampler import SamplingRows, sample_by_torch


def sample(logits: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """Choose a token for each row.

    Args:
        logits: Float32 [B, V], penalties applied, forbidden tokens at -inf.
        rows: The rows' parameters.

    Returns:
        Token ids int64 [B]. Ties of greedy rows go to the lowest id.
    """
    parameters = rows.greedy, rows.temperature, rows.top_p, rows.log_min_p, rows.top_k, rows.uniform
    if gpu.serves(logits.device):
        return gpu_sampler.choose_tokens(logits, *parameters, truncates=rows.truncates, all_greedy=rows.all_greedy)
    if native.serves(logits):
        return choose_tokens(logits, *parameters)[0]
    return sample_by_torch(logits, rows)
