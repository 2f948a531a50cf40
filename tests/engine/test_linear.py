"""Every linear kernel of this machine: right, and apart where it is said to keep rows apart."""

from __future__ import annotations

import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.engine import linear
from pipeline.engine.linear import (
    FIXED_ROWS,
    KERNELS,
    FixedRowsProduct,
    Int8Product,
    PackedLinear,
    Product,
    candidates,
    choose_kernel,
)

CPU = torch.device("cpu")
SHAPES = [(192, 64), (64, 256), (320, 64), (300, 96), (1056, 64), (48, 40)]
FLOAT = [name for name in KERNELS if name != "int8"]


def weight_of(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) / shape[1] ** 0.5


def rows_for(shape: tuple[int, int], rows: int = 600) -> torch.Tensor:
    return torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(2))


def made(name: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Product:
    """The kernel, or a skip where this build of torch has none."""
    try:
        product = KERNELS[name](weight, bias)
        product(torch.zeros(2, weight.shape[1]))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"no {name} here: {error}")
    return product


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FLOAT)
def test_kernels_are_right(name: str, shape: tuple[int, int]) -> None:
    weight, x = weight_of(shape), rows_for(shape)
    bias = torch.linspace(-1, 1, shape[0])
    product, plain = made(name, weight, bias), made(name, weight)
    for rows in (2, 3, 31, 32, 33, 96, 600):
        exact = x[:rows].double().numpy() @ weight.double().numpy().T
        np.testing.assert_allclose(product(x[:rows]).numpy(), exact + bias.numpy(), rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(plain(x[:rows]).numpy(), exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_what_is_said_to_keep_rows_apart_does(name: str, shape: tuple[int, int]) -> None:
    """More row counts, places and thread counts than the check at loading looks at."""
    weight, x = weight_of(shape), rows_for(shape)
    product = made(name, weight, torch.ones(shape[0]))
    if name != "int8" and not choose_kernel(weight, [name])[1]:
        pytest.skip(f"{name} does not keep rows apart on this machine, and choose_kernel knows")
    whole = product(x)
    for threads in (1, 2, 3):
        if threads > 1 and name == "fixed-rows":
            continue  # its thread count belongs to the promise
        torch.set_num_threads(threads)
        for rows in (
            2,
            3,
            4,
            5,
            7,
            8,
            15,
            16,
            17,
            31,
            32,
            33,
            48,
            63,
            64,
            65,
            72,
            100,
            128,
            136,
            255,
            256,
            257,
            400,
            600,
        ):
            for start in {0, 1, (600 - rows) // 2, 600 - rows}:
                part = x[start : start + rows]
                assert torch.equal(product(part), whole[start : start + rows]), (rows, start, threads)
        among = torch.cat([x[40:43], x.new_full((50, shape[1]), 1e6), x[43:50]])
        assert torch.equal(product(among)[[0, 1, 2, *range(53, 60)]], whole[40:50])


def test_int8_is_within_its_rounding() -> None:
    """Half a step of each side: |error| ≤ Σ (|w| · sx/2 + |x| · sw/2 + sx · sw/4)."""
    shape = (300, 96)
    weight, x = weight_of(shape).double(), rows_for(shape, 50).double()
    y = Int8Product(weight.float(), None)(x.float()).double()
    step_x, step_w = x.abs().amax(1, keepdim=True) / 127, weight.abs().amax(1) / 127
    bound = step_x / 2 * weight.abs().sum(1) + x.abs().sum(1, keepdim=True) * step_w / 2 + 96 * step_x * step_w / 4
    error = (y - x @ weight.T).abs()
    assert (error <= bound * (1 + 1e-5)).all()
    assert error.max() > 0
    assert (error.norm() / (x @ weight.T).norm()).item() < 0.02


def test_int8_of_whole_numbers_is_exact_and_zeros_stay_zero() -> None:
    rng = np.random.default_rng(3)
    weight, x = rng.integers(-127, 128, (40, 64)), rng.integers(-127, 128, (6, 64))
    weight[:, 0], x[:, 0] = 127, 127  # so that the scales are 1
    x[2] = 0
    y = Int8Product(torch.from_numpy(weight).float(), None)(torch.from_numpy(x).float())
    np.testing.assert_allclose(y.numpy(), x @ weight.T, rtol=1e-6)
    assert (y[2] == 0).all()


def test_fixed_rows_gives_the_library_one_shape_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return F.linear(x, weight, bias)

    product = FixedRowsProduct(weight_of((64, 256)), None)
    monkeypatch.setattr(linear, "F", types.SimpleNamespace(linear=spy, pad=F.pad))
    for rows in (2, 31, 32, 33, 100):
        assert product(rows_for((64, 256), rows)).shape == (rows, 64)
    assert set(seen) == {(FIXED_ROWS, 256)}


def test_a_machine_that_is_not_intels_does_not_try_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "processor_vendor", lambda: "AuthenticAMD")
    assert candidates(torch.float32, CPU) == ["onednn-packed", "fixed-rows"]
    monkeypatch.setattr(linear, "processor_vendor", lambda: "GenuineIntel")
    assert candidates(torch.float32, CPU) == ["mkl-packed", "onednn-packed", "fixed-rows"]
    assert candidates(torch.bfloat16, CPU) == ["onednn-packed", "fixed-rows"]
    assert candidates(torch.float32, torch.device("cuda")) == ["fixed-rows"]
    assert all(name in KERNELS for name in candidates(torch.float32, CPU))


def absent(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """The operator is not in this build: what torch raises then."""
    return torch.ops.mkldnn._no_such_operator(weight)  # type: ignore[no-any-return]


def wrong(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    return lambda x: F.linear(x, weight * 1.01, bias)


def mixing(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """Right within rounding, but the last bits tell how many rows there are."""
    return lambda x: F.linear(x, weight, bias) * (1 + 1e-6 * (len(x) % 5))


def by_place(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """Right within rounding, but the last bits tell the row's place."""
    return lambda x: F.linear(x, weight, bias) * (1 + 1e-6 * (torch.arange(len(x)) % 3))[:, None]


@pytest.mark.parametrize("kernel", [absent, wrong, mixing, by_place])
def test_a_kernel_that_does_not_keep_its_promise_is_passed_over(
    kernel: Callable[..., Product], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KERNELS, "onednn-packed", kernel)
    assert choose_kernel(weight_of((320, 64)), ["onednn-packed", "fixed-rows"]) == ("fixed-rows", True)
    monkeypatch.setitem(KERNELS, "fixed-rows", kernel)
    assert choose_kernel(weight_of((320, 64)), ["onednn-packed", "fixed-rows"]) == ("fixed-rows", False)


def test_the_first_that_keeps_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "mkl-packed", FixedRowsProduct)
    assert choose_kernel(weight_of((320, 64)), ["mkl-packed", "fixed-rows"]) == ("mkl-packed", True)


def test_a_packed_linear_keeps_leading_dimensions_and_takes_any_strides() -> None:
    weight, x = weight_of((192, 64)), torch.randn(3, 5, 64)
    layer = PackedLinear(FixedRowsProduct(weight, None), 64, 192)
    torch.testing.assert_close(layer(x), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    assert torch.equal(layer(x.transpose(0, 1)), layer(x).transpose(0, 1))
    assert layer(x).shape == (3, 5, 192)
    assert list(layer.parameters()) == []
