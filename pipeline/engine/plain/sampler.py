"""Chooses tokens from logits with torch's own operations: penalties, temperature, truncation, one uniform number per row.

Every operation treats rows separately and has a shape fixed by the vocabulary, so a token does not depend on other rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

BLOCK = 128
"""Probabilities are summed in blocks of this size, and the blocks in float64: accurate and fast."""
TOP = 512
"""Top-p looks at this many most likely tokens first; the whole vocabulary is sorted only for rows that need more."""


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """Sampling parameters of the B rows of a step, as tensors [B].

    `greedy` rows take the most likely token. `top_k` is the vocabulary size where it is off. `log_min_p` is -inf where
    min-p is off. `uniform` is float64 in [0, 1).
    """

    greedy: torch.Tensor
    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    log_min_p: torch.Tensor
    uniform: torch.Tensor
    truncates: bool
    all_greedy: bool


def penalise(
    logits: torch.Tensor, counts: torch.Tensor, in_prompt: torch.Tensor, repetition: torch.Tensor, presence: torch.Tensor,
    frequency: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Apply the three penalties.

    Repetition divides positive and multiplies negative logits of tokens seen in the prompt or generated (Keskar et al.,
    2019, as in transformers); presence and frequency are subtracted for generated tokens (as in OpenAI's API and vLLM).

    Args:
        logits: [B, V].
        counts: [B, V] how often each token was generated.
        in_prompt: [B, V] whether it is in the prompt.
        repetition: [B].
        presence: [B].
        frequency: [B].

    Returns:
        [B, V].
    """
    generated = counts > 0
    factor = repetition[:, None].expand_as(logits)
    repeated = torch.where(logits > 0, logits / factor, logits * factor)
    logits = torch.where(generated | in_prompt, repeated, logits)
    return logits - frequency[:, None] * counts - presence[:, None] * generated


def sample_by_torch(logits: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """As `sample`, by torch's operations, from logits of any float type."""
    greedy = logits.argmax(-1)
    if rows.all_greedy:
        return greedy
    logits = logits / rows.temperature[:, None]
    probabilities = torch.softmax(logits, -1)
    if rows.truncates:
        keep = logits >= truncation_threshold(logits, probabilities, rows)[:, None]
        probabilities = probabilities.masked_fill(~keep, 0)
    return torch.where(rows.greedy, greedy, invert_cdf(probabilities, rows.uniform))


def truncation_threshold(logits: torch.Tensor, probabilities: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """Return the smallest logit, [B], that min-p, top-k and top-p keep, applied in this order. Ties are kept.

    Args:
        logits: [B, V] after temperature.
        probabilities: Their softmax.
        rows: The rows' parameters.
    """
    vocabulary = logits.shape[-1]
    floor = logits.amax(-1) + rows.log_min_p
    mass = torch.ones_like(rows.uniform)
    both = (rows.log_min_p > -torch.inf) & (rows.top_p < 1)
    if both.any():  # top-p is a share of what min-p left
        mass = torch.where(both, _total(probabilities.masked_fill(logits < floor[:, None], 0)), mass)
    off = rows.top_k >= vocabulary
    largest_k = int(rows.top_k.masked_fill(off, 0).max())
    width = min(vocabulary, max(TOP, largest_k + 1))  # one more logit shows whether tokens tie with the last one
    parameters = (floor, mass, rows.top_k, rows.top_p)
    threshold, enough = _top_threshold(logits, probabilities, width, *parameters)
    short = (~enough).nonzero()[:, 0]
    if len(short):
        threshold[short] = _top_threshold(
            logits[short], probabilities[short], vocabulary, *[p[short] for p in parameters]
        )[0]
    return torch.maximum(threshold, floor)


def _top_threshold(
    logits: torch.Tensor, probabilities: torch.Tensor, width: int, floor: torch.Tensor, mass: torch.Tensor,
    top_k: torch.Tensor, top_p: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return (threshold of top-k and top-p from the `width` largest logits, whether these were enough), both [B].

    Only logits of at least `floor` count; `mass` is their probability, where top-k is off. As in transformers and vLLM, top-p
    is a share of the tokens that top-k keeps, ties included.
    """
    values, indices = logits.topk(width)
    ordered = probabilities.gather(-1, indices).double()
    whole = top_k >= logits.shape[-1]
    kth = values.gather(-1, top_k.clamp(max=width)[:, None] - 1)[:, 0]
    least = torch.where(whole, floor, torch.maximum(kth, floor))
    within = values >= least[:, None]
    ordered = ordered.masked_fill(~within, 0)
    cumulative = ordered.cumsum(-1)
    total = torch.where(whole, mass, cumulative[:, -1])
    # A token stays while the mass of the more likely ones is below top_p: the smallest set that reaches it. Where top-p is off,
    # the mass may still round to 1 long before the last token.
    before = (cumulative - ordered) / total[:, None]
    limit = top_p.double().masked_fill(top_p >= 1, torch.inf)
    kept = (within & (before < limit[:, None])).sum(-1).clamp_(min=1)
    threshold = values.gather(-1, kept[:, None] - 1)[:, 0]
    # nothing is cut from a row without top-k and top-p
    free = whole & (top_p >= 1)
    told = torch.where(whole, kept < width, (values[:, -1] < least) | (top_p >= 1))
    enough = free | told | (width == logits.shape[-1])
    return threshold.masked_fill(free, float("-inf")), enough


def _total(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the float64 sums [B] of rows [B, V], in blocks, so that no row is split among threads."""
    batch, vocabulary = probabilities.shape
    return F.pad(probabilities, (0, -vocabulary % BLOCK)).view(batch, -1, BLOCK).sum(-1).double().sum(-1)


def invert_cdf(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw from unnormalised probabilities [B, V] with one uniform number [B] each, by inverting the distribution.

    A block is found in the running sum of block sums, then the token within it. A token of probability 0 is never drawn.
    """
    batch, vocabulary = probabilities.shape
    blocks = F.pad(probabilities, (0, -vocabulary % BLOCK)).view(batch, -1, BLOCK)
    running = blocks.sum(-1).double().cumsum(-1)
    target = uniform * running[:, -1]
    block = torch.searchsorted(running, target[:, None], right=True)
    # rounding can move the target past the end: then take the last block with a positive sum
    last = (running < running[:, -1:]).sum(-1, keepdim=True)
    block = torch.minimum(block, last)
    before = torch.where(block > 0, running.gather(-1, (block - 1).clamp_(min=0)), 0)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double()
    cumulative = inside.cumsum(-1)
    index = torch.searchsorted(cumulative, target[:, None] - before, right=True)
    # and past the end of the block: then take its last token with a positive probability
    index = torch.minimum(index, (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True))
    return (block * BLOCK + index)[:, 0]
