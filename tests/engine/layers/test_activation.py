"""Activations and rotary tables: the function's values, and the same bits for a row wherever it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pipeline.engine.layers.activation import RotaryTable, RowwiseActivation
from tests.example_counts import examples

FUNCTIONS = [nn.GELU(approximate="tanh"), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ReLU(), nn.Sigmoid()]
WIDTHS = [512, 500, 64, 3, 4096, 1]


def rows_of(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(width)) * 3


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_values_are_the_functions(function: nn.Module, width: int) -> None:
    x = rows_of(300, width)
    exact = function(x.double())
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.testing.assert_close(RowwiseActivation(function)(x).double(), exact, rtol=1e-6, atol=2e-6)


@settings(deadline=None, max_examples=examples(60))
@given(
    function=st.sampled_from(FUNCTIONS), width=st.sampled_from(WIDTHS), rows=st.integers(1, 300), start=st.integers(0, 299),
    threads=st.integers(1, 4), batched=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_bits_do_not_depend_on_rows_or_threads(
    function: nn.Module, width: int, rows: int, start: int, threads: int, batched: bool, dtype: torch.dtype
) -> None:
    x = rows_of(300, width).to(dtype)
    torch.set_num_threads(1)
    alone = torch.cat([RowwiseActivation(function)(row[None]) for row in x[start : start + rows]])
    torch.set_num_threads(threads)
    part = x[start : start + rows]
    together = RowwiseActivation(function)(part[None] if batched else part)
    assert torch.equal(together.view_as(alone), alone)


def test_strides_and_shapes_are_free() -> None:
    x = rows_of(60, 512)
    activation = RowwiseActivation(nn.SiLU())
    torch.set_num_threads(3)
    assert torch.equal(activation(x.t().contiguous().t()), activation(x))
    assert activation(x.view(3, 20, 512)).shape == (3, 20, 512)


def test_one_operation_stands_for_gpt2s_five() -> None:
    x = torch.linspace(-12, 12, 64_000).view(-1, 64)
    ours = RowwiseActivation(nn.GELU(approximate="tanh"))(x)
    torch.testing.assert_close(ours, NewGELUActivation()(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_len", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_rotary_table_holds_the_originals_values(max_len: int, threads: int) -> None:
    torch.set_num_threads(threads)
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=256)
    rotary, like = LlamaRotaryEmbedding(config), torch.zeros(1)
    table = RotaryTable(rotary, max_len, like)
    positions = torch.randperm(max_len)[None]
    for ours, theirs in zip(table(like, positions), rotary(like, positions), strict=True):
        assert ours.shape == theirs.shape == (1, max_len, 16)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.set_num_threads(1)
    again = RotaryTable(rotary, max_len, like)
    ones, others = dict(again.named_buffers()), dict(table.named_buffers())
    assert all(torch.equal(ones[name], others[name]) for name in ("cos", "sin"))
    lone, all_of_them = table(like, positions[:, :1]), table(like, positions)
    assert torch.equal(lone[0], all_of_them[0][:, :1])
    assert dict(table.state_dict()) == {}
