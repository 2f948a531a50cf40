"""Dynamic int8: weights and activations in whole numbers, with a scale for every STRETCH elements along the inner dimension.

One scale for a whole row would be set by its largest element, and trained models have a few that are hundreds of times as
large as the others, for which two or three steps would be left. So each stretch has its own scale, and the OUTLIERS largest
elements of a row are not quantised at all (as in LLM.int8(), Dettmers et al., 2022, though row by row).

The sums within a stretch are whole numbers that float32 holds exactly, so every way to compute them gives the same bits. What
surrounds them (the largest value, quotients, products, roundings, additions stretch after stretch, then outlier after
outlier) is rounded correctly by every processor. So a row's bits depend on the row and the weight, and on nothing else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipeline.engine.native.product import OUTLIERS, STRETCH, Int8Layer

STEPS = 127
"""Steps from zero to the largest value of a stretch; -128 is not used, so that both sides are alike."""
_SMALLEST = 1e-12
"""Stands for the largest value where that is less, so that nothing is divided by zero."""
_BLOCK = 256
"""Channels that are quantised at once, so that intermediate tensors stay in the processor's caches."""


class Int8Product:
    """x · Wᵀ + b in int8 by torch's operations, between activations of the model's own type.

    The error of an element is at most Σ |w|·sx/2 + |x|·sw/2 + sx·sw/4, where sx is the step of the row in the element's
    stretch (its largest value / STEPS) and sw that of the channel: half a step for each factor, and less for the outliers.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise `weight` [N, K]."""
        self._values, step = quantised(weight)
        self._scale = step / STEPS  # the rows' STEPS too, which saves an operation a call
        self._bias = None if bias is None else bias.float()
        self._steps = torch.tensor(float(STEPS))  # torch divides a Python number by multiplying it with a reciprocal

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise the rows of x [M, K], multiply, and scale back: [M, N]."""
        x, dtype = x.float(), x.dtype
        places = x.abs().sort(dim=1, descending=True, stable=True).indices[:, :OUTLIERS]
        rows = _stretches(x.scatter(1, places, 0.0))
        strange = (rows * 0).sum(-1)  # 0, or not a number
        largest = rows.abs().nan_to_num(0).amax(-1).clamp_min_(_SMALLEST)
        factor = torch.where(strange == 0, self._steps / largest, 0)
        whole = (rows * factor[..., None]).nan_to_num_(0).round_()
        scales = largest + strange
        y = torch.zeros(len(x), len(self._values))
        for i in range(rows.shape[1]):
            weight = self._values[:, i * STRETCH : (i + 1) * STRETCH].float()
            sums = whole[:, i, : weight.shape[1]] @ weight.t()  # exact in any order: below 2²⁴
            y.add_(sums.mul_(self._scale[:, i]).mul_(scales[:, i, None]))
        for place in places.t():
            weight = self._values[:, place].float().mul_(self._scale[:, place // STRETCH]).t()
            y.add_(weight.mul(x.gather(1, place[:, None]).mul_(self._steps)))
        return (y if self._bias is None else y.add_(self._bias)).to(dtype)


class CompiledInt8Product:
    """The same, bit for bit, in compiled code: one pass over the rows, one over the weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise `weight` [N, K]."""
        self._layer = Int8Layer(weight if weight.dtype == torch.bfloat16 else weight.float(), bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return self._layer(x.float()).to(x.dtype)


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (int8 [N, K], step float32 [N, stretches]): each stretch of each channel of `weight` in steps of its own."""
    (channels, width), steps = weight.shape, []
    values = torch.empty(weight.shape, dtype=torch.int8)
    for first in range(0, channels, _BLOCK):
        here = slice(first, first + _BLOCK)
        cut = _stretches(weight[here].float().contiguous())
        step = cut.abs().amax(-1).clamp_min_(_SMALLEST) / STEPS
        values[here] = (cut / step[..., None]).round_().flatten(1)[:, :width]
        steps.append(step)
    return values, torch.cat(steps)


def _stretches(x: torch.Tensor) -> torch.Tensor:
    """[M, K] as [M, stretches, STRETCH], the last stretch filled up with zeros."""
    return F.pad(x, (0, -x.shape[1] % STRETCH)).view(len(x), -1, STRETCH)
