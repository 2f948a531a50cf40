"""What the machine allows: operations per second of a large product, bytes per second of its memory, and what a token needs."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from pipeline.engine.calibration.drawn import held_bytes, products
from pipeline.engine.calibration.timing import Way, shortest
from pipeline.engine.model.load import LoadedModel

_RATE_ROWS, _BAND_BYTES = 1024, 128 << 20


def flops(loaded: LoadedModel) -> tuple[float, ...]:
    """Return (operations of a token in the linear layers, those of the output layer, bytes of their weights)."""
    inner, output = products(loaded)
    sizes = [2.0 * sum(m.in_features * m.out_features for m in found) for found in (inner, output)]
    return (*sizes, float(sum(held_bytes(m) for m in (*inner, *output))))


@torch.inference_mode()
def rate(loaded: LoadedModel, *, int8: bool) -> float:
    """Return the operations per second of one large product: the layer's own, or the library's if that is faster."""
    inner, output = products(loaded)
    layer = max(inner or output, key=lambda m: m.in_features * m.out_features)
    x = torch.randn(_RATE_ROWS, layer.in_features)
    ways: list[Way] = [lambda: partial(layer, x.to(loaded.dtype))]
    if not int8:
        weight = torch.randn(layer.out_features, layer.in_features)
        ways.append(lambda: partial(F.linear, x, weight))
    return 2.0 * _RATE_ROWS * layer.in_features * layer.out_features / min(shortest(ways))


def bandwidth() -> float:
    """Return the bytes per second at which memory is read."""
    area = torch.ones(_BAND_BYTES // 4)
    return _BAND_BYTES / shortest([lambda: area.sum])[0]
