"""Attention as the models call it, by either way: against float64, what is chosen here, and what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.engine import native
from pipeline.engine.cache.block_pool import BlockPool
from pipeline.engine.cache.kv_cache import KVCache
from pipeline.engine.layers.attention import StepLayout, choose, slot_attention, step_layout
from pipeline.engine.native.attention import NativeStep
from pipeline.engine.plain import attention as plain_attention
from pipeline.engine.scheduler import Chunk, Scheduler, Step
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.runner import ModelRunner
from pipeline.errors import ModelRefused
from pipeline.user_cache import VARIABLE
from tests.engine.small.attention_cases import needs_kernels
from tests.engine.small.tiny_models import Tiny, random_prompts, request, without_kernels
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]
CPU = torch.device("cpu")
WAYS = [pytest.param("native", marks=needs_kernels), "torch"]


@pytest.mark.parametrize("option", ["softcap", "s_aux", "position_bias"])
def test_what_would_change_the_result_is_refused_by_name(option: str) -> None:
    q = torch.zeros(1, 2, 1, 4)
    layout: Any = None
    with pytest.raises(ModelRefused, match=f"attention with {option} is not served"):
        slot_attention(nn.Identity(), q, q, q, None, layout=layout, **{option: 5})


class Spy(nn.Module):
    """A model of one attention layer: random queries, keys and values for each (sequence, position)."""

    def __init__(self, heads: int, kv_heads: int, dim: int) -> None:
        super().__init__()
        self.layer_idx, self.counts = 0, [heads, kv_heads, kv_heads]
        self.table = torch.randn(6, 200, sum(self.counts), dim, generator=torch.Generator().manual_seed(1))
        self.places: list[tuple[int, int]] = []  # of the tokens of the step that is to come
        self.seen: dict[tuple[int, int], torch.Tensor] = {}

    def draw(self, name: int, position: int) -> tuple[torch.Tensor, ...]:
        return self.table[name, position].split(self.counts)

    def run(self, position_ids: torch.Tensor, layout: StepLayout, **_: Any) -> Any:
        assert position_ids[0, : len(self.places)].tolist() == [position for _, position in self.places]
        drawn = [self.draw(*place) for place in self.places]
        pad = position_ids.shape[1] - len(self.places)
        # heads before tokens, as transformers has them, and in no order of memory that suits
        parts = [torch.stack(part, 1)[None] for part in zip(*drawn, strict=True)]
        q, k, v = (F.pad(part, (0, 0, 0, pad), value=torch.nan) for part in parts)
        out = slot_attention(self, q, k, v, None, layout=layout)[0]
        assert out.shape == (1, q.shape[2], q.shape[1], q.shape[3])
        self.seen.update({place: out[0, i] for i, place in enumerate(self.places)})
        return type("Out", (), {"logits": torch.zeros(1, 9, 3)})

    def exact(self, name: int, position: int) -> torch.Tensor:
        q, *_ = self.draw(name, position)
        past = self.table[name, : position + 1].transpose(0, 1).double()
        _, k, v = past.split(self.counts)
        groups = self.counts[0] // self.counts[1]
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        return F.scaled_dot_product_attention(q.double()[:, None], k, v)[:, 0]


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=examples(40))
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=6), groups=st.sampled_from([1, 2, 4]),
    steps=st.integers(1, 4), budget=st.sampled_from([32, 64, 256]), spare=st.integers(0, 3),
)  # fmt: skip
def test_chunks_and_decodes_attend_to_their_own_past(
    way: str, lengths: list[int], groups: int, steps: int, budget: int, spare: int
) -> None:
    """Through scheduler, pool and runner, over blocks that others have left their numbers in."""
    spy = Spy(2 * groups, 2, 16)
    loaded: Any = type("Loaded", (), {
        "layers": 1, "kv_heads": 2, "head_dim": 16, "dtype": torch.float32, "kv_dtype": torch.float32, "device": CPU,
        "attention": way, "model": staticmethod(spy.run), "kernels": {"compiled": 1},
    })  # fmt: skip
    sequences = [Sequence(request(str(i), [i] * n), steps) for i, n in enumerate(lengths)]
    runner = ModelRunner(loaded, len(lengths), 200, max(s.blocks_needed for s in sequences) + spare)
    for side in (runner.cache.keys[0], runner.cache.values[0]):
        side.fill_(torch.nan)
    scheduler = Scheduler(len(lengths), budget, BlockPool(runner.blocks))
    scheduler.add(sequences)
    tokens = torch.ones(len(lengths), 200, dtype=torch.long)
    while scheduler.running or scheduler.waiting:
        _, step = scheduler.schedule()
        names = {s: int(s.request.row_id) for s in sequences}
        spy.places = [(names[s], s.prompt_len + len(s.generated) - 1) for s in step.decodes]
        spy.places += [(names[c.sequence], c.start + i) for c in step.chunks for i in range(c.length)]
        runner.run(step, tokens)
        for one in step.choosing:
            one.generated.append(1)
            if len(one.generated) == steps:
                scheduler.release(one)
    assert spy.seen.keys() == {(i, p) for i, n in enumerate(lengths) for p in range(n + steps - 1)}
    for place, found in spy.seen.items():
        torch.testing.assert_close(found.double(), spy.exact(*place), rtol=1e-4, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_the_kernel_is_chosen_where_it_is_right(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for heads, kv_heads, dim in ((20, 20, 64), (4, 2, 80), (32, 8, 128), (14, 2, 64), (8, 1, 20), (1, 1, 4)):
        assert choose(heads, kv_heads, dim, torch.float32, dtype, CPU) == (f"native-{native.level()}", True)
    kernel = NativeStep.attend

    def wrong(*arguments: Any) -> torch.Tensor:
        return kernel(*arguments) * 1.001

    def unsteady(self: Any, *arguments: Any) -> torch.Tensor:
        return kernel(self, *arguments) * (1 + 1e-7 * (len(self._chunks) % 2))

    for attend in (wrong, unsteady):
        monkeypatch.setattr(NativeStep, "attend", attend)
        assert choose(4, 2, 16, torch.float32, dtype, CPU)[0] == "torch"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_torch_attends_in_float32_whatever_the_models_type(dtype: torch.dtype) -> None:
    """Only the result is rounded: products in 16 bits would depend on the batch."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(70, heads, 20, generator=draw).to(dtype) for heads in (4, 2, 2))
    spots, tables = [(0, 1, 40, 0), (1, 1, 63, 1), (2, 32, 0, 2), (34, 32, 32, 2)], torch.arange(6).int().view(3, 2)
    found = []
    for kind in (dtype, torch.float32):
        cache = KVCache(1, 6, 2, 20, dtype, CPU)
        cache.values[0].fill_(0.5)
        layout = step_layout(cache, spots, tables, compiled=False)
        found.append(layout.attend(0, q.to(kind), k.to(kind), v.to(kind), 20**-0.5))
    assert found[0].dtype == dtype and torch.equal(found[0], found[1].to(dtype))


@pytest.mark.parametrize("kernels", [contextlib.nullcontext, without_kernels], ids=lambda c: c.__name__)
def test_what_was_found_of_attention_is_remembered(
    kernels: Callable[[], contextlib.AbstractContextManager[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with kernels():
        first = choose(4, 2, 16, torch.float32, torch.float32, CPU)
        for check in ("layers.attention._native_is_right", "plain.attention.batching_keeps_bits"):
            monkeypatch.setattr(f"pipeline.engine.{check}", lambda *_: pytest.fail("checked again"))
        assert choose(4, 2, 16, torch.float32, torch.float32, CPU) == first
        with pytest.raises(pytest.fail.Exception):
            choose(8, 2, 16, torch.float32, torch.float32, CPU)


def test_torch_is_chosen_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(4, 2, 16, torch.float16, torch.float16, CPU)[0] == "torch"
    with without_kernels():
        assert choose(4, 2, 16, torch.float32, torch.float32, CPU) == ("torch", True)
        monkeypatch.setattr(plain_attention, "batching_keeps_bits", lambda *_: False)
        assert choose(4, 2, 16, torch.float32, torch.bfloat16, CPU) == ("torch", False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_of_a_step_are_those_of_a_float64_pass(tiny: MakeTiny, family: str, way: str) -> None:
    """Prompt logits of every position, in one step with others."""
    model = tiny(family)
    with contextlib.nullcontext() if way == "native" else without_kernels():
        loaded = Tiny(model.folder).loaded()
    assert loaded.attention.startswith(way) and loaded.batch_invariant
    runner = ModelRunner(loaded, 3, 128)
    prompts = random_prompts(41, [20, 32, 7])
    sequences = [Sequence(request(str(i), p), 9, slot=i, blocks=[2 - i]) for i, p in enumerate(prompts)]
    tokens = torch.zeros(3, 128, dtype=torch.long)
    for i, p in enumerate(prompts):
        tokens[i, : len(p)] = torch.tensor(p)
    step = Step([], [Chunk(s, 0, s.prompt_len) for s in sequences], [])
    found = runner.run(step, tokens, prompt_logits=frozenset({0, 2}))
    exact = [torch.from_numpy(model.exact_logits(p)) for p in prompts]
    expected = torch.cat([exact[0], exact[1][-1:], exact[2]])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
