"""What the check of a linear kernel finds out: orders of sums that differ, though rounding to 16 bits hides it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from pipeline.engine.layers.drawn_layer import DrawnLayer
from pipeline.engine.layers.linear import KERNELS, Kernel, Product, candidates, choose_kernel
from pipeline.engine.layers.linear_check import _cancelling
from pipeline.engine.layers.verdicts import Verdicts
from tests.engine.small.sample_layers import rows_for, weight_of

HALF = [torch.bfloat16, torch.float16]
SHAPE = (128, 512)


def one_by_one(weight: torch.Tensor, x: torch.Tensor, *orders: torch.Tensor) -> torch.Tensor:
    """Products summed in float32, channel after channel, in each of the orders; then the sums of those."""
    sums = []
    for order in orders:
        total = torch.zeros(len(x), len(weight))
        for k in order.tolist():
            total += x[:, k, None].float() * weight[None, :, k].float()
        sums.append(total)
    return torch.stack(sums).sum(0)


def split_sums(differs: Callable[[int], bool]) -> Callable[[torch.Tensor, torch.Tensor | None], Product]:
    """A kernel with one sum for each result, or with two that are added, as its number of rows tells it."""

    def kernel(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        channels = torch.arange(weight.shape[1])
        added = torch.zeros(len(weight)) if bias is None else bias.float()

        def product(x: torch.Tensor) -> torch.Tensor:
            orders = channels.chunk(2) if differs(len(x)) else (channels,)
            return (one_by_one(weight, x, *orders) + added).to(x.dtype)

        return product

    return kernel


def some(rows: int) -> bool:
    return 37 <= rows < 128


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_another_order_of_sums_is_found_though_rounding_hides_it(
    dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, added = weight_of(SHAPE).to(dtype), torch.linspace(-1, 1, SHAPE[0]).to(dtype) if bias else None
    x = rows_for(SHAPE, 100).to(dtype)
    one, two = (split_sums(sides)(weight, added)(x) for sides in (lambda _: False, lambda _: True))
    assert 0 < (one != two).sum() < 0.001 * one.numel() * (1 if dtype == torch.bfloat16 else 8)  # so few would show it
    monkeypatch.setitem(KERNELS, "onednn-packed", split_sums(some))
    assert choose_kernel(weight, added, ["onednn-packed", "fixed-rows"]) == ("fixed-rows", True)
    for steady in (lambda _: True, lambda _: False):
        monkeypatch.setitem(KERNELS, "onednn-packed", split_sums(steady))
        assert choose_kernel(weight, added, ["onednn-packed", "fixed-rows"]) == ("onednn-packed", True)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("shape", [(3, 2), (300, 33), (48, 40), (600, 64), SHAPE, (16, 8192)], ids=str)
def test_results_of_what_cancels_are_rounding_alone(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Exactly zero, and in float32 neither too small for the type nor too large; orders of sums differ nearly everywhere."""
    x, weight = _cancelling(weight_of(shape).to(dtype))
    assert (weight.shape, weight.dtype, x.dtype, x.shape[1]) == (shape, dtype, dtype, shape[1])
    assert (x.double() @ weight.double().t() == 0).all()  # 53 bits hold every sum
    x = x[:8]
    orders = torch.arange(shape[1]), torch.arange(shape[1]).flip(0)
    one, other = (one_by_one(weight, x, order) for order in orders)
    left = one[one != 0].abs()
    assert torch.equal(one.isfinite(), one.to(dtype).isfinite()) and (left >= torch.finfo(dtype).tiny).all()
    if shape[1] >= 512:
        assert (one.to(dtype) != other.to(dtype)).float().mean() > 0.7


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("shape", [(192, 64), (64, 256), SHAPE, (64, 512), (300, 96)], ids=str)
def test_what_passes_keeps_the_order_of_its_sums_at_every_number_of_rows(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = weight_of(shape).to(dtype)
    name, exact = choose_kernel(weight, None, candidates(dtype, torch.device("cpu")))
    x, cancels = _cancelling(weight)
    product = KERNELS[name](cancels, None)
    whole = product(x)
    assert exact and (whole != 0).any()
    for rows in range(2, len(x)):
        start = rows * 7 % (len(x) - rows)
        assert torch.equal(product(x[start : start + rows]), whole[start : start + rows]), (name, rows)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_memory_that_runs_out_chooses_no_other_kernel(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another replica on such a machine, which has the memory, would choose the first."""

    def kernel(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        raise error

    monkeypatch.setitem(KERNELS, "onednn-packed", kernel)
    with pytest.raises(type(error)):
        choose_kernel(weight_of(SHAPE), None, ["onednn-packed", "fixed-rows"])
    error.args = ("this build has no such operator",)
    if isinstance(error, RuntimeError):
        assert choose_kernel(weight_of(SHAPE), None, ["onednn-packed", "fixed-rows"]) == ("fixed-rows", True)


@pytest.mark.parametrize("shape", [(1200, 96), (3001, 128), (1025, 64)], ids=str)
@pytest.mark.parametrize("name", ["compiled", "onednn-packed", "int8-compiled"])
def test_a_channel_is_wrong_wherever_it_is(name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, one in the midst, the last of an odd panel: within the slice of a compiled kernel, too."""
    right = KERNELS["int8-torch" if name.startswith("int8") else "fixed-rows"]

    def spoilt(weight: torch.Tensor, bias: torch.Tensor | None, channel: int) -> Product:
        inner = right(weight, bias)

        def product(x: torch.Tensor) -> torch.Tensor:
            y = inner(x).clone()
            y[:, channel] += y[:, channel - 1] + 1
            return y

        return product

    for channel in (0, 1, 700, -1):
        monkeypatch.setitem(KERNELS, name, partial(spoilt, channel=channel))
        assert choose_kernel(weight_of(shape), None, [name]) == (name, False)
    monkeypatch.setitem(KERNELS, name, right)
    assert choose_kernel(weight_of(shape), None, [name]) == (name, True)


def test_kernels_of_panels_are_checked_with_a_slice_and_those_of_a_library_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = list[tuple[int, ...]]()

    def spy(weight: torch.Tensor, bias: torch.Tensor | None, kernel: Kernel) -> Product:
        seen.append(tuple(weight.shape))
        return kernel(weight, bias)

    for name, used in (("compiled", "fixed-rows"), ("int8-compiled", "int8-torch"), ("fixed-rows", "fixed-rows")):
        monkeypatch.setitem(KERNELS, name, partial(spy, kernel=KERNELS[used]))
        for channels in (1088, 5003):
            assert choose_kernel(weight_of((channels, 40)), None, [name])[1]
    assert seen == [(1088, 40), (1024 + 5003 % 64, 40)] * 2 + [(1088, 40), (5003, 40)]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 0.0])
def test_what_is_found_is_no_matter_of_the_weights(broken: float) -> None:
    """A damaged model must not leave a verdict behind that a good one of the same shape would find."""
    assert choose_kernel(torch.full((96, 64), broken), None, ["fixed-rows"]) == ("fixed-rows", True)


def test_what_was_found_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias, known, drawn = weight_of((192, 64)), torch.ones(192), Verdicts(None, ""), DrawnLayer.draw
    counted = list[str]()

    def counting(layer: DrawnLayer) -> tuple[torch.Tensor, torch.Tensor | None]:
        counted.append(str(layer))
        return drawn(layer)

    monkeypatch.setattr(DrawnLayer, "draw", counting)
    monkeypatch.setitem(KERNELS, "onednn-packed", split_sums(some))
    for _ in range(2):
        for given in (weight, weight.t().contiguous().t(), weight * 2):
            for added in (None, bias):
                assert choose_kernel(given, added, ["onednn-packed", "fixed-rows"], known) == ("fixed-rows", True)
    assert len(counted) == 6 and len(set(counted)) == 4, "the last takes whatever strides in a row's order"


def test_a_kernel_that_keeps_its_weight_is_checked_with_rows_as_it_will_have_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GPT-2's weights come transposed, and another layout may mean another kernel of the library."""
    kernel, seen = KERNELS["fixed-rows"], list[bool]()

    def spy(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        seen.append(weight.is_contiguous())
        return kernel(weight, bias)

    monkeypatch.setitem(KERNELS, "fixed-rows", spy)
    for dtype in (torch.float32, *HALF):
        assert choose_kernel(weight_of((64, 320)).to(dtype).t(), None, ["fixed-rows"]) == ("fixed-rows", True)
    assert len(seen) == 5 and all(seen)
