"""What is exchanged in a model, and that nothing of the originals stays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from tiny_models import FAMILIES, Tiny
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from pipeline.engine.exchange import exchange
from pipeline.engine.linear import KERNELS, PackedLinear
from pipeline.engine.rowwise import RotaryTable, RowwiseActivation

MakeTiny = Callable[..., Tiny]


def fresh(family: str) -> nn.Module:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(FAMILIES[family]()).eval().requires_grad_(False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_activation_and_rotary_is_exchanged(family: str, int8: bool) -> None:
    model = fresh(family)
    before = sum(isinstance(m, nn.Linear | Conv1D) for m in model.modules())
    kernels, exact = exchange(model, 128, int8=int8)
    kinds = [type(m) for m in model.modules()]
    assert exact
    assert sum(kernels.values()) == before == kinds.count(PackedLinear)
    assert set(kernels) == {"int8"} if int8 else set(kernels) <= set(KERNELS) - {"int8"}
    assert nn.Linear not in kinds and Conv1D not in kinds
    assert RowwiseActivation in kinds
    assert (RotaryTable in kinds) == (family not in ("gpt2", "opt"))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_outputs_stay_those_of_the_model(family: str) -> None:
    ids = torch.randint(1, 320, (1, 40), generator=torch.Generator().manual_seed(1))
    model, exchanged = fresh(family), fresh(family)
    exchange(exchanged, 128)
    torch.testing.assert_close(exchanged(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    quantised = fresh(family)
    exchange(quantised, 128, int8=True)
    close = nn.functional.cosine_similarity(quantised(ids).logits, model(ids).logits, dim=-1)
    assert close.mean() > 0.95 and close.mean() < 1


@pytest.mark.parametrize("layer", [nn.Linear(64, 48), nn.Linear(64, 48, bias=False), Conv1D(48, 64)], ids=repr)
@pytest.mark.parametrize("int8", [False, True])
def test_linear_and_conv1d_alike(layer: nn.Module, int8: bool) -> None:
    layer.requires_grad_(False)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1))
    expected = layer(x)
    model = nn.Sequential(layer)
    kernels, _ = exchange(model, 8, int8=int8)
    (found,) = model
    assert isinstance(found, PackedLinear) and (found.in_features, found.out_features) == (64, 48)
    assert sum(kernels.values()) == 1
    assert (model(x) - expected).abs().max() < (0.05 * expected.abs().max() if int8 else 1e-5)


def test_the_original_weights_are_freed() -> None:
    model = fresh("gpt2")
    weights = [weakref.ref(m.weight) for m in model.modules() if isinstance(m, Conv1D)]
    embedding = sum(p.numel() for n, p in model.named_parameters() if "wte" in n or "wpe" in n or "ln" in n)
    exchange(model, 128)
    gc.collect()
    assert [w for w in weights if w() is not None] == []
    assert sum(p.numel() for p in model.parameters()) == embedding


def test_equal_shapes_get_equal_kernels_and_a_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def choose(weight: torch.Tensor, names: list[str]) -> tuple[str, bool]:
        seen.append(tuple(weight.shape))
        return "fixed-rows", weight.shape[0] != 192

    monkeypatch.setattr("pipeline.engine.exchange.choose_kernel", choose)
    kernels, exact = exchange(fresh("gpt2"), 128)
    assert len(seen) == len(set(seen)) == 5
    assert kernels == {"fixed-rows": 9}
    assert not exact
