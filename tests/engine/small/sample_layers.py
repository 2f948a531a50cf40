"""Weights and rows to multiply, and the products of this machine."""

from __future__ import annotations

import pytest
import torch

from pipeline.engine.layers.linear import KERNELS, Product

SHAPES = [(192, 64), (64, 256), (320, 64), (300, 96), (1056, 64), (48, 40)]


def weight_of(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) / shape[1] ** 0.5


def rows_for(shape: tuple[int, int], rows: int = 600) -> torch.Tensor:
    return torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(2))


def made(name: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Product:
    """The kernel, or a skip where this build of torch or this processor has none."""
    try:
        product = KERNELS[name](weight, bias)
        product(torch.zeros(2, weight.shape[1], dtype=weight.dtype))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"no {name} here: {error}")
    return product
