"""Products that are put in place block by block give what concatenated blocks give, bit for bit."""

from __future__ import annotations

import pytest
import torch

from pipeline.engine.layers.linear import KERNELS
from pipeline.engine.layers.linear_check import is_batch_invariant
from pipeline.engine.plain.products import BlockedProduct, LibraryProduct, LogitsProduct


@pytest.mark.parametrize("kind", [LibraryProduct, LogitsProduct])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
def test_blocks_are_what_each_is_alone(
    kind: type[LibraryProduct | LogitsProduct], dtype: torch.dtype, biased: bool
) -> None:
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(100, 48, generator=draw).to(dtype)
    bias = torch.randn(100, generator=draw).to(dtype) if biased else None
    product, exact = BlockedProduct(kind(weight, bias), 16), kind(weight, bias)
    for rows in (2, 15, 16, 17, 32, 40):
        x = torch.randn(rows, 48, generator=draw).to(dtype)
        found = product(x)
        assert found.shape == (rows, 100)
        for first in range(0, rows, 16):
            block = x.new_zeros(16, 48)
            part = x[first : first + 16]
            block[: len(part)] = part
            out = exact.room(block)
            exact.into(block, out)
            assert torch.equal(found[first : first + 16], out[: len(part), :100])
        true = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
        torch.testing.assert_close(found.double(), true, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=5e-2)
        assert found.dtype == (torch.float32 if kind is LogitsProduct else dtype)


@pytest.mark.parametrize("name", ["fixed-rows-256", "logits-64"])
def test_they_keep_rows_apart(name: str) -> None:
    weight = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
    assert is_batch_invariant(KERNELS[name], weight, torch.ones(40))
