"""Dynamic int8: whole-number sums, the same bits by every way there is, and an error within half a step a factor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.layers.int8 import STEPS, Int8Product, quantised
from pipeline.engine.layers.linear import KERNELS
from pipeline.engine.native.product import OUTLIERS, STRETCH
from tests.engine.small.sample_layers import SHAPES, made, rows_for, weight_of
from tests.engine.small.tiny_models import OLDER, kernels_of
from tests.example_counts import examples

INT8 = [name for name in KERNELS if name.startswith("int8")]
Ints = np.ndarray[Any, np.dtype[np.int64]]


def whole_numbers(rng: np.random.Generator, shape: tuple[int, int]) -> Ints:
    """Numbers of the largest size in each stretch of each row, more than there are exact ones, so that its step is 1."""
    numbers = rng.integers(-STEPS, STEPS + 1, shape)
    for place in range(OUTLIERS + 2):
        numbers[:, place::STRETCH] = STEPS
    return numbers


@pytest.mark.parametrize("name", INT8)
@settings(max_examples=examples(40), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 70), width=st.integers(2, 300), out=st.integers(2, 200),
    extreme=st.sampled_from([None, STEPS, -STEPS]),
)  # fmt: skip
def test_sums_are_those_of_whole_numbers(
    name: str, seed: int, rows: int, width: int, out: int, extreme: int | None
) -> None:
    """Against numpy's 64-bit integers; rows and channels of the largest numbers among them."""
    rng = np.random.default_rng(seed)
    weight, x = whole_numbers(rng, (out, width)), whole_numbers(rng, (rows, width))
    if extreme is not None:
        weight[out // 2], x[rows // 2] = STEPS, extreme
    y = made(name, torch.from_numpy(weight).float())(torch.from_numpy(x).float())
    lost = 5e-7 * (np.abs(x) @ np.abs(weight).T)  # the sums of the stretches are added in float32
    assert (np.abs(y.numpy() - x @ weight.T) <= lost).all()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param(shape, dtype, marks=[] if dtype == torch.float32 or shape == SHAPES[0] else pytest.mark.slow)
        for shape in [*SHAPES, (40, 5120)]
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ],
    ids=str,
)
@pytest.mark.parametrize("name", INT8)
def test_every_way_gives_the_same_bits(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight, x, bias = (t.to(dtype) for t in (weight_of(shape), rows_for(shape), torch.linspace(-1, 1, shape[0])))
    x[7], x[9], x[11] = 3, -3, weight[0].sign()
    expected = Int8Product(weight, bias)(x)
    product = made(name, weight, bias)
    assert expected.dtype == dtype
    for rows in range(1, 301, 1 if shape in SHAPES else 13):
        assert torch.equal(product(x[rows : 2 * rows]), expected[rows : 2 * rows]), rows
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        for rows in (1, 2, 5, 8, 17, 32, 33, 64, 100, 255, 600):
            for start in {0, 1, 600 - rows}:
                part = slice(start, start + rows)
                assert torch.equal(product(x[part]), expected[part]), (rows, start, threads)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_error_is_half_a_step_a_factor_at_most(shape: tuple[int, int]) -> None:
    weight, x = weight_of(shape).double(), rows_for(shape, 50).double()
    y = Int8Product(weight.float(), None)(x.float()).double()
    step_x, step_w = x.abs().amax(1, keepdim=True) / STEPS, weight.abs().amax(1) / STEPS  # at least those of a stretch
    bound = step_x / 2 * weight.abs().sum(1) + x.abs().sum(1, keepdim=True) * step_w / 2
    bound += shape[1] * step_x * step_w / 4
    error = (y - x @ weight.T).abs()
    assert (error <= bound * (1 + 1e-5)).all()
    assert 0.002 < (error.norm() / (x @ weight.T).norm()).item() < 0.02


@pytest.mark.parametrize("name", INT8)
def test_what_is_not_finite_stays_so_in_its_row(name: str) -> None:
    weight, x = weight_of((192, 64)), rows_for((192, 64), 8)
    product = made(name, weight)
    sound = product(x)
    for position, value in ((2, float("nan")), (4, float("inf")), (6, float("-inf"))):
        x[position, 5] = value
    y = product(x)
    assert torch.isfinite(y).all(1).tolist() == [True, True, False, True, False, True, False, True]
    assert not torch.isfinite(y[[2, 4, 6]]).any()
    assert torch.equal(y[[0, 1, 3, 5, 7]], sound[[0, 1, 3, 5, 7]])


@pytest.mark.parametrize("name", INT8)
def test_a_row_of_zeros_gives_the_bias_and_a_channel_of_zeros_too(name: str) -> None:
    weight, bias, x = weight_of((64, 256)), torch.linspace(-1, 1, 64), rows_for((64, 256), 4)
    weight[7], x[2] = 0, 0
    y = made(name, weight, bias)(x)
    assert torch.equal(y[2], bias)
    assert (y[:, 7] == bias[7]).all()


def test_weights_in_blocks_and_of_any_layout_are_quantised_alike() -> None:
    weight = torch.randn(9000, 24, generator=torch.Generator().manual_seed(1))
    values, step = quantised(weight.t().contiguous().t())
    assert values.is_contiguous() and values.dtype == torch.int8
    assert values.abs().amax(1).eq(STEPS).all()
    torch.testing.assert_close(values * step, weight, rtol=0, atol=float(step.max()) * 0.501)


@pytest.mark.parametrize("shape", [*SHAPES, (33, 1500), (7, 5), (1, 1), (16, 64), (17, 65)], ids=str)
def test_the_compiled_product_quantises_weights_of_any_layout_to_the_same_bits(shape: tuple[int, int]) -> None:
    weight, x = weight_of(shape), rows_for(shape, 5)
    expected = made("int8-torch", weight)(x)
    wide = torch.zeros(shape[0], 2 * shape[1] + 3)
    wide[:, 1 : 2 * shape[1] : 2] = weight
    for layout in (weight, weight.t().contiguous().t(), wide[:, 1 : 2 * shape[1] : 2]):
        assert torch.equal(made("int8-compiled", layout)(x), expected)
        halved = layout.bfloat16()
        assert torch.equal(made("int8-compiled", halved)(x), made("int8-torch", halved)(x))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_not_finite_gives_no_numbers(bad: float) -> None:
    """Rather than numbers that look right."""
    weight, x = weight_of((40, 70)), rows_for((40, 70), 3)
    weight[9, 66] = bad
    for name in ("int8-torch", "int8-compiled"):
        y = made(name, weight)(x)
        assert y.isfinite().all(0).tolist() == [channel != 9 for channel in range(40)]


@pytest.mark.parametrize("name", INT8)
def test_a_huge_element_harms_its_own_stretch_only(name: str) -> None:
    """As trained models have them: with one scale for the row, nothing would be left of the other elements."""
    weight, x = weight_of((64, 3 * STRETCH)), rows_for((64, 3 * STRETCH), 8)
    weight[:, 5], x[:, 5] = 0, 10_000.0
    exact = (x[:, STRETCH:].double() @ weight[:, STRETCH:].double().T).float()
    weight[:, :STRETCH] = 0
    error = (made(name, weight)(x) - exact).norm() / exact.norm()
    assert error < 0.02


@pytest.mark.parametrize("level", OLDER)
@pytest.mark.parametrize("shape", [*SHAPES, (33, 1500)], ids=str)
def test_every_level_gives_the_same_bits(shape: tuple[int, int], level: str) -> None:
    weight, x, bias = weight_of(shape), rows_for(shape, 60), torch.linspace(-1, 1, shape[0])
    product = KERNELS["int8-compiled"](weight, bias)
    with kernels_of(level):
        older = KERNELS["int8-compiled"](weight, bias)
        for rows in (1, 2, 5, 6, 7, 13, 14, 15, 60):
            assert torch.equal(older(x[:rows]), product(x[:rows]))
