"""Which kernel stands for a weight on this machine, and how one that breaks its promise is found."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from pipeline.engine import native
from pipeline.engine.layers import linear
from pipeline.engine.layers.linear import KERNELS, PackedLinear, Product, candidates, choose_kernel
from tests.engine.small.sample_layers import SHAPES, weight_of

CPU = torch.device("cpu")
FIXED = KERNELS["fixed-rows"]


@pytest.mark.parametrize("built", [True, False])
def test_candidates_follow_from_the_machine(built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: object() if built else None)

    def found(vendor: str, *flags: str, dtype: torch.dtype = torch.float32, int8: bool = False) -> list[str]:
        monkeypatch.setattr(linear, "processor", lambda: (vendor, frozenset(flags)))
        return candidates(dtype, CPU, int8=int8)

    ours, ours_int8 = (["compiled"], ["int8-compiled"]) if built else ([], [])
    assert found("AuthenticAMD") == [*ours, "onednn-packed", "fixed-rows"]
    assert found("GenuineIntel") == [*ours, "mkl-packed", "onednn-packed", "fixed-rows"]
    assert found("GenuineIntel", dtype=torch.bfloat16) == [*ours, "onednn-packed", "fixed-rows"]
    for flag in ("avx512_bf16", "amx_bf16"):
        assert found("GenuineIntel", flag, dtype=torch.bfloat16) == ["onednn-packed", "fixed-rows"]
    assert found("GenuineIntel", dtype=torch.float16) == ["onednn-packed", "fixed-rows"]
    cuda, on_gpu = torch.device("cuda"), ["fixed-rows-256", "fixed-rows-64"]
    assert candidates(torch.float32, cuda) == on_gpu
    assert candidates(torch.float32, cuda, output=True) == ["logits-256", "logits-64", *on_gpu]
    assert candidates(torch.float32, cuda, deterministic=False) == ["library"]
    assert candidates(torch.float32, cuda, output=True, deterministic=False) == ["logits"]
    assert candidates(torch.float32, CPU, deterministic=False) == candidates(torch.float32, CPU)
    rest = ["int8-torch"]
    assert found("AuthenticAMD", "avx512_vnni", int8=True) == [*ours_int8, *rest]
    assert found("", int8=True) == [*ours_int8, *rest]
    if built:
        monkeypatch.setattr(native, "library", lambda: SimpleNamespace(product_bfloat16=None))
        for flag in ("avx512_bf16", "amx_bf16"):
            expected = ["compiled-bfloat16", "onednn-packed", "fixed-rows"]
            assert found("GenuineIntel", flag, dtype=torch.bfloat16) == expected
            assert found("GenuineIntel", flag)[0] == "compiled" and found("", flag, int8=True)[0] == "int8-compiled"
            assert found("", flag, dtype=torch.float16) == ["onednn-packed", "fixed-rows"]
    every = {"compiled", "compiled-bfloat16", "int8-compiled", "mkl-packed", "onednn-packed", "fixed-rows", *rest}
    every |= {*on_gpu, "library", "logits-256", "logits-64", "logits"}
    assert every == set(KERNELS)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("int8", [False, True])
def test_a_kernel_is_found_here(shape: tuple[int, int], dtype: torch.dtype, int8: bool) -> None:
    weight = weight_of(shape).to(dtype)
    name, exact = choose_kernel(weight, torch.ones(shape[0], dtype=dtype), candidates(dtype, CPU, int8=int8))
    assert exact and name.startswith("int8") == int8


def absent(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """The operator is not in this build: what torch raises then."""
    return torch.ops.mkldnn._no_such_operator(weight)


def wrong(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    return lambda x: F.linear(x, weight * 1.01, bias)


def mixing(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """Right within rounding, but the last bit tells how many rows there are."""
    inner = FIXED(weight, bias)
    return lambda x: inner(x) if len(x) % 5 else inner(x).nextafter(torch.tensor(9.0))


def by_place(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """Right within rounding, but the last bit tells the row's place."""
    inner = FIXED(weight, bias)
    return lambda x: inner(x).nextafter(torch.where(torch.arange(len(x)) % 3 == 0, -9.0, 9.0)[:, None])


def in_ten_bits(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """Factors of float32 in the ten bits that matrix units may round them to."""

    def cut(t: torch.Tensor) -> torch.Tensor:
        return (t.view(torch.int32) + 0x1000).bitwise_and_(-0x2000).view(torch.float32)

    return lambda x: FIXED(cut(weight), bias)(cut(x))


@pytest.mark.parametrize("kernel", [absent, wrong, mixing, by_place, in_ten_bits])
def test_a_kernel_that_does_not_keep_its_promise_is_passed_over(
    kernel: Callable[..., Product], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weight_of((320, 64))
    monkeypatch.setitem(KERNELS, "onednn-packed", kernel)
    assert choose_kernel(weight, None, ["onednn-packed", "fixed-rows"]) == ("fixed-rows", True)
    monkeypatch.setitem(KERNELS, "fixed-rows", kernel)
    assert choose_kernel(weight, None, ["onednn-packed", "fixed-rows"]) == ("fixed-rows", False)


def test_sums_in_bfloat16_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weight_of((320, 64)).bfloat16()

    def halves(w: torch.Tensor, b: torch.Tensor | None) -> Product:
        first, second = (FIXED(side.contiguous(), None) for side in w.split(32, 1))
        return lambda x: first(x[:, :32].contiguous()) + second(x[:, 32:].contiguous())

    monkeypatch.setitem(KERNELS, "onednn-packed", halves)
    assert choose_kernel(weight, None, ["onednn-packed", "fixed-rows"]) == ("fixed-rows", True)


def test_a_wrong_bias_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "onednn-packed", lambda w, b: FIXED(w, None))
    bias = torch.linspace(-1, 1, 320)
    assert choose_kernel(weight_of((320, 64)), bias, ["onednn-packed", "fixed-rows"]) == ("fixed-rows", True)


def test_the_first_that_keeps_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "mkl-packed", FIXED)
    assert choose_kernel(weight_of((320, 64)), None, ["mkl-packed", "fixed-rows"]) == ("mkl-packed", True)


def test_a_packed_linear_keeps_leading_dimensions_and_takes_any_strides() -> None:
    weight, x = weight_of((192, 64)), torch.randn(3, 5, 64)
    layer = PackedLinear(FIXED(weight, None), 64, 192)
    torch.testing.assert_close(layer(x), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    assert torch.equal(layer(x.transpose(0, 1)), layer(x).transpose(0, 1))
    assert layer(x).shape == (3, 5, 192)
    assert list(layer.parameters()) == []
