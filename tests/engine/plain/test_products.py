"""Products in the model's own type: right, and batch-invariant where they are said to be."""

from __future__ import annotations

import re
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.engine import native
from pipeline.engine.layers import linear_check
from pipeline.engine.layers.linear import KERNELS, choose_kernel
from pipeline.engine.plain import products
from pipeline.engine.plain.products import FIXED_ROWS, LogitsProduct
from tests.engine.small.attention_cases import needs_kernels
from tests.engine.small.sample_layers import SHAPES, made, rows_for, weight_of
from tests.engine.small.tiny_models import OLDER, kernels_of

FLOAT = [name for name in KERNELS if not name.startswith(("int8", "logits"))]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FLOAT)
def test_products_are_right(name: str, shape: tuple[int, int]) -> None:
    weight, x = weight_of(shape), rows_for(shape)
    bias = torch.linspace(-1, 1, shape[0])
    product, plain = made(name, weight, bias), made(name, weight)
    for rows in (2, 3, 31, 32, 33, 96, 600):
        exact = x[:rows].double().numpy() @ weight.double().numpy().T
        np.testing.assert_allclose(product(x[:rows]).numpy(), exact + bias.numpy(), rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(plain(x[:rows]).numpy(), exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES[1:], ids=str)
@pytest.mark.parametrize("name", FLOAT)
def test_products_of_short_types_lose_the_rounding_of_the_result_only(
    name: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weight, x, bias = weight_of(shape).to(dtype), rows_for(shape, 100).to(dtype), torch.linspace(-1, 1, shape[0])
    y = made(name, weight, bias.to(dtype))(x)
    exact = torch.addmm(bias.to(dtype).double(), x.double(), weight.double().t())
    assert y.dtype == dtype
    assert ((y - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5).all()


EDGES = (2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 72, 100, 128, 136, 255, 257)
"""Numbers of rows about those at which products change what they do."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", FLOAT)
def test_what_is_said_to_keep_rows_apart_does(name: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Every number of rows that a step may have, more places and thread counts than the check at loading looks at."""
    weight, x = weight_of(shape).to(dtype), rows_for(shape).to(dtype)
    product = made(name, weight, torch.ones(shape[0], dtype=dtype))
    if not choose_kernel(weight, None, [name])[1]:
        pytest.skip(f"{name} is not batch-invariant on this machine, and choose_kernel knows")
    whole = product(x)
    for rows in EDGES if name.startswith("fixed-rows") else range(2, 301):  # those see one number of rows only
        assert torch.equal(product(x[rows : 2 * rows]), whole[rows : 2 * rows]), rows
    among = torch.cat([x[40:43], x.new_full((50, shape[1]), 1e3), x[43:50]])
    assert torch.equal(product(among)[[0, 1, 2, *range(53, 60)]], whole[40:50])
    if name == "fixed-rows":
        return  # its thread count belongs to the promise
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        for rows in (*EDGES, 400, 600):
            for start in {0, 1, 600 - rows}:
                part = slice(start, start + rows)
                assert torch.equal(product(x[part]), whole[part]), (rows, start, threads)


def test_fixed_rows_gives_the_library_one_shape_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return F.linear(x, weight, bias)

    product = KERNELS["fixed-rows"](weight_of((64, 256)), None)
    monkeypatch.setattr(products, "F", types.SimpleNamespace(linear=spy, pad=F.pad))
    for rows in (2, 31, 32, 33, 100):
        assert product(rows_for((64, 256), rows)).shape == (rows, 64)
    assert set(seen) == {(FIXED_ROWS, 256)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_summed_and_kept_in_float32(dtype: torch.dtype, bias: bool) -> None:
    """Right to float32's rounding, though the weights have 16 bits; rows are aligned, whatever the number of channels."""
    weight, x = weight_of((257, 256)).to(dtype), rows_for((257, 256), 40).to(dtype)
    added = torch.linspace(-1, 1, 257).to(dtype) if bias else None
    found = LogitsProduct(weight, added)(x)
    exact = F.linear(x.double(), weight.double(), None if added is None else added.double())
    assert found.dtype == torch.float32 and found.shape == (40, 257) and found.stride() == (320, 1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
    assert torch.equal(KERNELS["logits-64"](weight, added)(x), KERNELS["logits-64"](weight, added)(x[:50]))


@needs_kernels
@pytest.mark.parametrize("level", OLDER)
@pytest.mark.parametrize("shape", [*SHAPES, (33, 1500)], ids=str)
def test_the_compiled_product_has_the_same_bits_at_every_level(shape: tuple[int, int], level: str) -> None:
    """Another build, other groups of rows, half panels; and any strides of the weight."""
    weight, x, bias = weight_of(shape), rows_for(shape, 60), torch.linspace(-1, 1, shape[0])
    product = KERNELS["compiled"](weight, bias)
    turned = KERNELS["compiled"](weight.t().contiguous().t(), bias)
    with kernels_of(level):
        older = KERNELS["compiled"](weight, bias)
        for rows in (1, 2, 5, 6, 7, 13, 14, 15, 60):
            assert torch.equal(older(x[:rows]), product(x[:rows])) and torch.equal(turned(x[:rows]), product(x[:rows]))


@needs_kernels
def test_the_check_at_loading_runs_every_size_of_group() -> None:
    """There is code for each: a compiler that gets one wrong must be found out."""
    text = (native.INCLUDE / "product.h").read_text()
    for most in map(int, re.findall(r"#define MOST (\d+)", text)):
        sizes = set[int]()
        for rows in [stop - start for start, stop in linear_check._PARTS] + [linear_check._PROBE_ROWS]:
            count = -(-rows // most)
            sizes |= {rows * (i + 1) // count - rows * i // count for i in range(count)}
        assert sizes == set(range(2, most + 1))


@needs_kernels
@pytest.mark.parametrize("shape", [*SHAPES, (33, 1500)], ids=str)
def test_a_weight_of_bfloat16_gives_what_its_float32_gives(shape: tuple[int, int]) -> None:
    """Widened as it is read, so that nothing is lost but the result's own rounding; whatever the weight's strides."""
    weight, x = weight_of(shape).bfloat16(), rows_for(shape, 60).bfloat16()
    bias = torch.linspace(-1, 1, shape[0]).bfloat16()
    exact = KERNELS["compiled"](weight.float(), bias.float())
    for given in (weight, weight.t().contiguous().t()):
        product = KERNELS["compiled"](given, bias)
        for rows in (1, 2, 5, 6, 7, 13, 14, 15, 60):
            assert torch.equal(product(x[:rows]), exact(x[:rows].float()).bfloat16())
