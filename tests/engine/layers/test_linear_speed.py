"""A kernel that is slower here than the library's product is told, in one line that says what to set. The clock is a test's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.engine.layers import linear_speed
from pipeline.engine.layers.linear import KERNELS, Product
from pipeline.engine.layers.linear_speed import Speeds, measure, warn_if_slow, warning
from pipeline.engine.model import exchange as exchanging
from pipeline.engine.model.exchange import exchange

SHAPE = (1024, 512)


class Clock:
    """Seconds that pass only where a product says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Two products whose times are listed, in seconds: of the kernel and of the library, call after call."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, kernel: Callable[[int], float], library: Callable[[int], float]
    ) -> None:
        self.clock, self.calls, self.rows = Clock(), [0, 0], set[tuple[int, ...]]()
        self._times = kernel, library
        monkeypatch.setattr(F, "linear", lambda x, weight: self._ran(1, x, weight))

    def kernel(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        assert bias is None
        return lambda x: self._ran(0, x, weight)

    def _ran(self, which: int, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        self.rows.add((*x.shape, *weight.shape))
        assert x.dtype == weight.dtype
        self.clock.now += self._times[which](self.calls[which])
        self.calls[which] += 1
        return x.float() @ weight.float().t()


def test_figures_are_those_of_the_best_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda call: [9, 0.004, 0.002, *[0.003] * 20][call], lambda _: 0.004)
    speeds = measure(bench.kernel, *SHAPE, torch.float32, bench.clock)
    work = 2 * 32 * 1024 * 512
    assert speeds is not None and bench.rows == {(32, 512, 1024, 512)}
    assert speeds.chosen == pytest.approx(work / 0.002) and speeds.library == pytest.approx(work / 0.004)


def test_what_runs_beside_it_for_a_while_slows_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All runs of the first measurement and most of the second take ten times as long, for the kernel alone."""
    bench = Bench(monkeypatch, lambda call: 0.01 if call < 9 else 0.001, lambda _: 0.001)
    warn_if_slow("compiled", bench.kernel, *SHAPE, torch.float32, bench.clock)
    assert caplog.records == [] and bench.calls[0] > 6


def test_a_product_that_takes_for_ever_is_run_a_few_times_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(monkeypatch, lambda _: 0.2, lambda _: 0.001)
    warn_if_slow("compiled", bench.kernel, *SHAPE, torch.float32, bench.clock)
    assert bench.calls == [3, 3]
    assert [record.message for record in caplog.records] == [
        "the product compiled is slow on this processor: 0.168 GFLOP/s, against 33.6 of the library's own; "
        "set engine.kernels=none"
    ]


def test_a_large_weight_is_measured_by_a_slice_and_a_small_one_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda _: 0.001, lambda _: 0.001)
    assert measure(bench.kernel, 200_000, 4096, torch.bfloat16, bench.clock) is not None
    assert bench.rows == {(32, 4096, 128 * torch.get_num_threads(), 4096)}
    assert measure(bench.kernel, 192, 64, torch.float32, bench.clock) is None


@pytest.mark.parametrize(
    ("name", "dtype", "slower", "said"),
    [
        ("compiled", torch.float32, 1.4, None),
        ("compiled", torch.float32, 1.6, "10 GFLOP/s, against 16 of the library's own; set engine.kernels=none"),
        (
            "fixed-rows",
            torch.float32,
            1.6,
            "which is not batch-invariant; promptmill's compiled kernels may be faster",
        ),
        ("int8-compiled", torch.float32, 0.4, None),
        ("int8-torch", torch.float32, 1.05, None),
        (
            "int8-torch",
            torch.bfloat16,
            1.2,
            "model.quantization=int8 is slower than float32 on this processor (int8-torch): 10",
        ),
        ("int8-torch", torch.float32, 40, "10 against 400 GOP/s; leave it out"),
        ("onednn-packed", torch.bfloat16, 0.5, None),
        ("fixed-rows", torch.bfloat16, 6, "model.dtype=bfloat16 is slower than float32 on this processor (fixed-rows)"),
        ("fixed-rows", torch.float16, 6, "10 against 60 GFLOP/s; set model.dtype=float32"),
    ],
)
def test_what_is_said(name: str, dtype: torch.dtype, slower: float, said: str | None) -> None:
    told = warning(name, dtype, Speeds(chosen=10e9, library=10e9 * slower))
    assert told is None if said is None else told is not None and said in told and "\n" not in told


def model(width: int = 256) -> nn.Module:
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=320, n_embd=width, n_layer=1, n_head=2, n_positions=32)
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def test_a_loaded_models_largest_weight_is_measured_with_its_own_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[tuple[object, ...]]()
    monkeypatch.setattr(exchanging, "warn_if_slow", lambda *told: seen.append(told))
    kernels, _ = exchange(model(), 32)
    ((name, kernel, channels, width, dtype),) = seen
    assert name in kernels and kernel is KERNELS[str(name)]
    assert {channels, width} == {256, 1024} and dtype == torch.float32


def test_a_slow_kernel_is_told_when_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It multiplies the same thing many times over, by the operation that is the library's product, which takes a second."""
    clock, linear = Clock(), F.linear

    def ticking(*args: Any) -> torch.Tensor:
        clock.now += 1
        return linear(*args)

    def wasteful(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        kernel = KERNELS["fixed-rows"](weight, bias)
        return lambda x: [kernel(x) for _ in range(60)].pop()

    monkeypatch.setattr(F, "linear", ticking)
    monkeypatch.setattr(exchanging, "warn_if_slow", partial(warn_if_slow, clock=clock))
    monkeypatch.setitem(KERNELS, "wasteful", wasteful)
    monkeypatch.setattr(exchanging, "candidates", lambda *_, **__: ["wasteful"])
    with caplog.at_level(logging.INFO, "pipeline.engine.layers.linear_speed"):
        assert exchange(model(), 32) == ({"wasteful": 5}, True)
    told = [record.levelname for record in caplog.records if record.name == linear_speed.__name__]
    assert told == ["WARNING"], "others may tell how far the loading is"
    assert "the product wasteful is slow on this processor: 0.00028 GFLOP/s, against 0.0168 of the" in caplog.text
