"""What is exchanged in a model, and that nothing of the originals stays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, MixtralConfig
from transformers.pytorch_utils import Conv1D

from pipeline.engine.layers import linear
from pipeline.engine.layers.activation import RotaryTable, RowwiseActivation
from pipeline.engine.layers.linear import KERNELS, PackedLinear
from pipeline.engine.model.exchange import exchange
from pipeline.stages import now_doing
from pipeline.user_cache import VARIABLE
from tests.engine.small.tiny_models import FAMILIES, Tiny

MakeTiny = Callable[..., Tiny]


def fresh(family: str) -> nn.Module:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(FAMILIES[family]()).eval().requires_grad_(False)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_activation_and_rotary_is_exchanged(family: str, int8: bool) -> None:
    model = fresh(family)
    before = sum(isinstance(m, nn.Linear | Conv1D) for m in model.modules())
    kernels, exact = exchange(model, 128, int8=int8)
    kinds = [type(m) for m in model.modules()]
    assert exact
    assert sum(kernels.values()) == before == kinds.count(PackedLinear)
    assert all(name in KERNELS and name.startswith("int8") == int8 for name in kernels)
    assert nn.Linear not in kinds and Conv1D not in kinds
    assert RowwiseActivation in kinds
    assert (RotaryTable in kinds) == (family not in ("gpt2", "opt"))


def in_int8(model: nn.Module) -> nn.Module:
    """An oracle of quantisation: linears that round their weights, once, and their inputs, with all else as it was.

    64 elements share a step; the four largest of an input's row stay as they are.
    """

    def rounded(t: torch.Tensor) -> torch.Tensor:
        parts = []
        for part in t.split(64, -1):
            step = part.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
            parts.append((part / step).round() * step)
        return torch.cat(parts, -1)

    def rounded_but_four(t: torch.Tensor) -> torch.Tensor:
        exact = torch.zeros_like(t).scatter(-1, t.abs().topk(4, -1).indices, 1.0).bool()
        return torch.where(exact, t, rounded(t.masked_fill(exact, 0.0)))

    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            turned = isinstance(module, Conv1D)
            weight = rounded(module.weight.t()).t() if turned else rounded(module.weight)
            # a new parameter: a tied weight stays as it is in the embedding
            module.weight = nn.Parameter(weight, False)
            module.register_forward_pre_hook(lambda _, inputs: (rounded_but_four(inputs[0]),))
    return model


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_stay_those_of_the_model(family: str, int8: bool) -> None:
    """Against transformers' model in float64; a factor at the border of two steps may fall to either side."""
    ids = torch.randint(2, 320, (1, 40), generator=torch.Generator().manual_seed(1))
    model, exchanged = fresh(family).double(), fresh(family)
    exchange(exchanged, 128, int8=int8)
    logits = exchanged(ids).logits
    if not int8:
        torch.testing.assert_close(logits.double(), model(ids).logits, rtol=1e-4, atol=1e-4)
    else:
        expected = in_int8(model)(ids).logits
        off, effect = ((t - expected).abs()[0].amax(1) for t in (logits, fresh(family)(ids).logits))
        assert off.median() < 1e-4 and off.max() < effect.max()
        assert 0.01 < effect.median() < 0.2 * expected.std()


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_outputs_are_as_near_to_the_truth_as_the_models_own(family: str) -> None:
    ids = torch.randint(2, 320, (1, 40), generator=torch.Generator().manual_seed(1))
    truth, model, exchanged = fresh(family)(ids).logits, fresh(family).bfloat16(), fresh(family).bfloat16()
    kernels, exact = exchange(exchanged, 128)
    logits = exchanged(ids).logits
    assert exact and logits.dtype == torch.bfloat16 and not any(name.startswith("int8") for name in kernels)
    ours, theirs = ((t.float() - truth).square().mean().sqrt() for t in (logits, model(ids).logits))
    assert ours < 1.2 * theirs


@pytest.mark.parametrize("layer", [nn.Linear(64, 48), nn.Linear(64, 48, bias=False), Conv1D(48, 64)], ids=repr)
@pytest.mark.parametrize("int8", [False, True])
def test_linear_and_conv1d_alike(layer: nn.Module, int8: bool) -> None:
    layer.requires_grad_(False)
    if isinstance(layer.bias, torch.Tensor):
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
    seen: list[tuple[object, ...]] = []

    def choose(weight: torch.Tensor, bias: torch.Tensor | None, *_: object) -> tuple[str, bool]:
        seen.append((*weight.shape, bias is None))
        return "fixed-rows", weight.shape[0] != 192

    monkeypatch.setattr("pipeline.engine.model.exchange.choose_kernel", choose)
    kernels, exact = exchange(fresh("gpt2"), 128)
    assert len(seen) == len(set(seen)) == 5
    assert kernels == {"fixed-rows": 9}
    assert not exact


@pytest.mark.parametrize("int8", [False, True])
def test_weights_that_are_no_linear_layers_are_told(int8: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The experts of a mixture are three-dimensional parameters, and their products depend on how many tokens go to each."""
    config = MixtralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    _, exact = exchange(AutoModelForCausalLM.from_config(config).eval(), 32, int8=int8)
    assert not exact
    (record,) = caplog.records
    assert "MixtralForCausalLM" in record.message and "MixtralExperts.gate_up_proj" in record.message
    assert ("not in int8" in record.message) == int8


@pytest.mark.parametrize("int8", [False, True])
def test_a_model_is_checked_once_on_a_machine(int8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    first = exchange(fresh("gpt2"), 128, int8=int8)
    monkeypatch.setattr(linear, "is_batch_invariant", lambda *_, **__: pytest.fail("checked again"))
    assert exchange(fresh("gpt2"), 128, int8=int8) == first
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(pytest.fail.Exception):
        exchange(fresh("gpt2"), 128, int8=int8)


def test_it_says_how_many_layers_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("pipeline.engine.model.exchange._trim", lambda: told.append(now_doing()))
    exchange(fresh("gpt2"), 128)
    assert told == [f"packing the weights, {done} of 9 layers" for done in range(9)]
