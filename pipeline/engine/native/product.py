"""The compiled products: weights packed once, and layers that multiply rows by them.

The order of their sums does not depend on the batch; see the C files of the same names.
"""

from __future__ import annotations

from ctypes import Structure, byref, c_int32, c_int64, c_void_p

import torch

from pipeline.engine.native import multiplies_bfloat16, needed

PANEL = 32
"""Most output channels per panel: per-channel values have room for whole panels."""
STRETCH = 64
"""Inner elements that share a scale in int8, as in product_int8.c."""
OUTLIERS = 4
"""Elements of a row that are not quantised, as in product_int8.c."""
TALLEST, ROW_BYTES = 32, 64
"""Rows per tile, and bytes of a row per tile, as in tiles.h."""


class _Product(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("weight", "bias", "scale")),
        *((name, c_int64) for name in ("in_features", "out_features")),
        ("halved", c_int32),
    )


class Float32Layer:
    """x · Wᵀ + b: sums in float32, with a weight of float32 or bfloat16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack `weight` [N, K], of any strides.

        Raises:
            RuntimeError: If the kernels are not there or the weight is of another type.
        """
        if weight.dtype not in (torch.float32, torch.bfloat16):
            raise RuntimeError("the compiled product is for float32 and bfloat16")
        self._library, (out, width) = needed(), weight.shape
        self._weight = torch.empty(_panels(out) * width, dtype=weight.dtype)
        self._bias = None if bias is None else _filled(bias)
        self._layer = _Product(
            self._weight.data_ptr(), _pointer(self._bias), None, width, out, weight.dtype == torch.bfloat16
        )
        self._library.pack_float32(
            byref(self._layer), weight.data_ptr(), weight.stride(0), weight.stride(1), torch.get_num_threads()
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply contiguous rows [M, K] of the weight's type; the result, [M, N], is of that type, too."""
        x, dtype = x.float(), x.dtype
        rows = _checked(x, self._layer.in_features)
        y, packed = torch.empty(rows, self._layer.out_features), torch.empty(x.numel())
        self._library.product_float32(
            byref(self._layer), x.data_ptr(), rows, y.data_ptr(), packed.data_ptr(), torch.get_num_threads()
        )
        return y.to(dtype)


class Bfloat16Layer:
    """x · Wᵀ + b in bfloat16, by the processor's instructions for it: sums in float32, rounded once at the end."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack the bfloat16 `weight` [N, K], of any strides.

        Raises:
            RuntimeError: If the kernels are not there or have no such product, or the weight is of another type.
        """
        if weight.dtype != torch.bfloat16 or not multiplies_bfloat16():
            raise RuntimeError(
                "there is no compiled product with instructions for bfloat16, or the weight is of another type"
            )
        self._library, (out, width) = needed(), weight.shape
        self._blocks = -(-2 * width // ROW_BYTES)
        self._weight = torch.empty(_panels(out) * self._blocks * ROW_BYTES, dtype=torch.uint8)
        self._bias = None if bias is None else _filled(bias)
        self._layer = _Product(self._weight.data_ptr(), _pointer(self._bias), None, width, out, 0)
        self._library.pack_bfloat16(
            byref(self._layer), weight.data_ptr(), weight.stride(0), weight.stride(1), torch.get_num_threads()
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply contiguous bfloat16 rows [M, K]; the result, [M, N], is of that type, too."""
        rows, threads = _checked(x, self._layer.in_features, torch.bfloat16), torch.get_num_threads()
        places = _places(rows)
        y = torch.empty(rows, self._layer.out_features, dtype=torch.bfloat16)
        packed = torch.empty(places * self._blocks * ROW_BYTES, dtype=torch.uint8)
        sums = torch.empty(threads * places * PANEL)
        self._library.product_bfloat16(
            byref(self._layer), x.data_ptr(), rows, y.data_ptr(), packed.data_ptr(), sums.data_ptr(), threads
        )
        return y


class Int8Layer:
    """x · Wᵀ + b with a weight quantised to int8; rows are quantised as they are read."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise and pack `weight` [N, K], of float32 or bfloat16 and any strides.

        Raises:
            RuntimeError: If the kernels are not there or the weight is of another type.
        """
        if weight.dtype not in (torch.float32, torch.bfloat16):
            raise RuntimeError("the compiled product quantises weights of float32 and bfloat16")
        self._library, (out, width) = needed(), weight.shape
        self._stretches = -(-width // STRETCH)
        self._steps = -(-width // 2)  # where an instruction sums two elements, the fewest that one does
        self._weight = torch.empty(_panels(out) * self._stretches * STRETCH, dtype=torch.int8)  # and 64 are the most
        self._scale, self._bias = torch.empty(_panels(out) * self._stretches), None if bias is None else _filled(bias)
        self._layer = _Product(
            self._weight.data_ptr(),
            _pointer(self._bias),
            self._scale.data_ptr(),
            width,
            out,
            weight.dtype == torch.bfloat16,
        )
        self._library.pack_int8(
            byref(self._layer), weight.data_ptr(), weight.stride(0), weight.stride(1), torch.get_num_threads()
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply contiguous float32 rows [M, K]."""
        rows = _checked(x, self._layer.in_features)
        y = torch.empty(rows, self._layer.out_features)
        packed = torch.empty(max(rows * self._steps, _places(rows) * self._stretches * ROW_BYTES // 4))
        factors, outliers = torch.empty(rows * self._stretches * 2), torch.empty(rows * OUTLIERS * 2)
        self._library.product_int8(
            byref(self._layer), x.data_ptr(), rows, y.data_ptr(), packed.data_ptr(), factors.data_ptr(),
            outliers.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return y


def _places(rows: int) -> int:
    """Return the number of rows, idle ones included, when groups of TALLEST are padded to their largest."""
    return rows + -(-rows // TALLEST)


def _checked(x: torch.Tensor, width: int, dtype: torch.dtype = torch.float32) -> int:
    """Check the rows, and return their number."""
    assert x.dtype == dtype and x.is_contiguous() and x.shape == (len(x), width)
    return len(x)


def _panels(channels: int) -> int:
    """Return the number of channels, rounded up to whole panels."""
    return -(-channels // PANEL) * PANEL


def _filled(channels: torch.Tensor) -> torch.Tensor:
    """Return a value per channel, and zeros up to the end of the last panel."""
    filled = torch.zeros(_panels(len(channels)))
    filled[: len(channels)] = channels
    return filled


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
