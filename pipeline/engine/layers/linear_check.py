"""Checks that a kernel is correct on this machine, and gives a row the same bits for any number of rows, at any index.

The check runs when a model is loaded, with a random weight of the model's shapes and types (`drawn_layer`). So its verdict
depends on the machine and the installation alone, and can be cached (`verdicts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from pipeline.engine.cache.memory import out_of_memory
from pipeline.engine.layers.drawn_layer import DISTINCT

Multiply = Callable[[torch.Tensor], torch.Tensor]
"""x [M, K] → [M, N]."""
Kernel = Callable[[torch.Tensor, torch.Tensor | None], Multiply]
"""A weight [N, K] and a bias [N] → their kernel."""

_PROBE_ROWS = 288
_COMPARED = slice(0, None, 12)
"""Rows of the probe that are compared with float64, which is slow; the others are only compared among batches."""
_PARTS = (
    (0, 2), (5, 8), (0, 4), (90, 95), (1, 7), (1, 8), (2, 11), (3, 13), (3, 19), (60, 93), (0, 64), (100, 228),
)  # fmt: skip
"""Places and numbers of rows at which the product must give what it gives for all of the probe at once. With these and all
of it, every size of group that the compiled products have code for is run."""
_MORE_PARTS = (*_PARTS, (30, 67), (11, 59), (150, 230), (7, 107), (161, 288), (88, 288))
"""More rows, for results in 16 bits: libraries for these choose kernels by the number of rows."""
_BLOCK = 4096
"""Channels that are compared at once, so that the float64 copy is small compared to the weight."""
_LOST = {"cpu": 5e-7, "cuda": 5e-5}
"""What a sum of products in float32 may lose, as a share of |x| · |w|: a few times what blocked sums do; on a GPU all are
added one after the other, in matrix units with bits cut off."""


def is_batch_invariant(
    kernel: Kernel, weight: torch.Tensor, bias: torch.Tensor | None, *, exact: Kernel | None = None,
    distinct: int | None = None,
) -> bool | None:  # fmt: skip
    """Check that a kernel is correct, and gives a row the same bits for every number of rows and every position.

    Args:
        kernel: The kernel to check.
        weight: [N, K].
        bias: [N].
        exact: A kernel that gives the expected bits; None: compare with float64, up to rounding.
        distinct: Channels before weight and bias repeat; None: they do not.

    Returns:
        The result; None if this build of torch lacks the operator, or has none for this dtype on this CPU.

    Raises:
        RuntimeError: If memory runs out.
    """
    x = _probe(weight)
    try:
        product = kernel(weight, bias)
        whole = product(x)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        if out_of_memory(error):  # it says nothing about the kernel, and equal machines must choose the same one
            raise
        return None
    some, found, period = x[_COMPARED], whole[_COMPARED], min(distinct or len(weight), len(weight))
    if exact is None:
        right = _close(found, some, weight, bias, period)
    else:
        bits = exact(weight[:period], None if bias is None else bias[:period])(some)
        right = all(torch.equal(y, bits[:, : y.shape[1]]) for y in torch.split(found, period, 1))
    if not right or not _same(product, x, whole, _PARTS):
        return False
    if exact is not None or whole.dtype.itemsize > 2:
        return True
    del product  # the next one is as large
    x, weight = _cancelling(weight)
    product = kernel(weight, None if bias is None else torch.zeros_like(bias))
    return _same(product, x, product(x), _MORE_PARTS)


def _same(product: Multiply, x: torch.Tensor, whole: torch.Tensor, parts: Iterable[tuple[int, int]]) -> bool:
    return all(torch.equal(product(x[start:stop].contiguous()), whole[start:stop]) for start, stop in parts)


def _probe(weight: torch.Tensor) -> torch.Tensor:
    """Return the rows to check with: random ones, and some whose products all have one sign, to find overflowing sums."""
    x = torch.randn(_PROBE_ROWS, weight.shape[1], generator=torch.Generator().manual_seed(0))
    x[0], x[12], x[24] = 1, -1, weight[0].sign()
    return x.to(weight.device, weight.dtype)


def _cancelling(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows, and a weight of the same shape and type, whose exact products are all zero: results are rounding errors.

    Two orders of summation differ in the last of float32's 24 bits. Rounded to 16 bits, nearly all results are equal
    nevertheless, and random rows would not reveal the order. These rows do.
    """
    channels, width = weight.shape
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(width // 2, generator=draw)

    def half(rows: int) -> torch.Tensor:
        # From 1 to 2¹³: so unequal that float32 rounds most sums, even of products of two 8-bit mantissas; what is left then
        # is neither a subnormal of float16 nor beyond its range.
        sizes = torch.exp2(13 * torch.rand(rows, width // 2, generator=draw))
        return torch.where(torch.rand(sizes.shape, generator=draw) < 0.5, sizes, -sizes)

    x, w = half(_PROBE_ROWS), half(min(channels, DISTINCT))
    sides = torch.cat([x, -x[:, order]], 1), torch.cat([w, w[:, order]], 1)
    x, w = (torch.nn.functional.pad(side, (0, width % 2)).to(weight.device, weight.dtype) for side in sides)
    return x, w.repeat(-(-channels // len(w)), 1)[:channels]


def _close(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, period: int) -> bool:
    """Whether results agree with float64, up to their own rounding and that of float32 sums.

    Products or sums in a shorter format than float32 have errors many times as large.
    """
    x, eps = x.double(), torch.finfo(y.dtype).eps
    norm = _LOST[weight.device.type] * x.square().sum(1, keepdim=True).sqrt()
    bias = torch.zeros_like(weight[:, 0]) if bias is None else bias
    for first in range(0, period, _BLOCK):
        here = slice(first, min(first + _BLOCK, period))
        w, b = weight[here].double(), bias[here].double()
        exact = torch.addmm(b, x, w.t())
        allowed = eps * (exact.abs() + b.abs()) + norm * w.square().sum(1).sqrt()
        for again in torch.split(y, period, 1):
            part = again[:, here]
            if not ((part - exact[:, : part.shape[1]]).abs() <= allowed[:, : part.shape[1]]).all():
                return False
    return True
