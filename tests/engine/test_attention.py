"""Attention over the cache, against plain attention in float64, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import Tiny, random_prompts, request
from torch import nn

from pipeline.engine import attention
from pipeline.engine.attention import StepLayout, batching_keeps_bits, slot_attention
from pipeline.engine.runner import ModelRunner
from pipeline.engine.scheduler import Chunk, Step
from pipeline.engine.sequence import Sequence
from pipeline.errors import ModelRefused

MakeTiny = Callable[..., Tiny]
CPU = torch.device("cpu")


@pytest.mark.parametrize("option", ["sliding_window", "softcap", "s_aux", "position_bias"])
def test_what_would_change_the_result_is_refused_by_name(option: str) -> None:
    q = torch.zeros(1, 2, 1, 4)
    layout: Any = StepLayout(None, 1, q, [], [])  # type: ignore[arg-type]
    with pytest.raises(ModelRefused, match=f"attention with {option} is not served"):
        slot_attention(nn.Identity(), q, q, q, None, layout=layout, **{option: 5})


class Spy(nn.Module):
    """A model of one attention layer: random queries, keys and values for each (slot, position)."""

    def __init__(self, heads: int, kv_heads: int, dim: int) -> None:
        super().__init__()
        self.layer_idx, self.counts = 0, [heads, kv_heads, kv_heads]
        self.table = torch.randn(6, 200, sum(self.counts), dim, generator=torch.Generator().manual_seed(1))

    def draw(self, slot: int, position: int) -> tuple[torch.Tensor, ...]:
        return self.table[slot, position].split(self.counts)  # type: ignore[no-untyped-call,no-any-return]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=6), groups=st.sampled_from([1, 2, 4]),
    steps=st.integers(1, 4), dead=st.booleans(),
)  # fmt: skip
def test_chunks_and_decodes_attend_to_their_own_past(lengths: list[int], groups: int, steps: int, dead: bool) -> None:
    spy = Spy(2 * groups, 2, 16)
    loaded: Any = type("Loaded", (), {
        "layers": 1, "kv_heads": 2, "head_dim": 16, "dtype": torch.float32, "device": CPU, "model": None,
    })  # fmt: skip
    runner = ModelRunner(loaded, len(lengths), 200)
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def model(input_ids: torch.Tensor, position_ids: torch.Tensor, layout: StepLayout, **_: Any) -> Any:
        places = list(zip(token_slots, position_ids[0].tolist(), strict=False))[: layout.tokens]
        drawn = [spy.draw(*place) for place in places]
        pad = position_ids.shape[1] - layout.tokens
        q, k, v = (F.pad(torch.stack(part, 1)[None], (0, 0, 0, pad)) for part in zip(*drawn, strict=True))
        out, _ = slot_attention(spy, q, k, v, None, layout=layout)
        seen.update({place: out[0, i] for i, place in enumerate(places)})
        return type("Out", (), {"logits": torch.zeros(1, 2, 3)})

    loaded.model = staticmethod(model)
    sequences = [Sequence(request(str(i), [1] * n), 40, slot=i) for i, n in enumerate(lengths)]
    tokens = torch.ones(len(lengths), 200, dtype=torch.long)
    while any(not s.decoding for s in sequences):
        chunks = [Chunk(s, s.prefilled, s.next_chunk()) for s in sequences if not s.decoding]
        token_slots = [c.sequence.slot for c in chunks for _ in range(c.length)]
        runner.run(Step([], chunks), tokens)
        for chunk in chunks:
            chunk.sequence.prefilled += chunk.length
    live = sequences[1:] if dead and len(sequences) > 1 else sequences  # a dead row below the live ones
    for _ in range(steps):
        for sequence in live:
            sequence.generated.append(1)
        token_slots = [s.slot for s in live]
        runner.run(Step(live, []), tokens)
    for (slot, position), found in seen.items():
        q = spy.draw(slot, position)[0].double()
        past = spy.table[slot, : position + 1].transpose(0, 1).double()
        _, k, v = past.split(spy.counts)  # type: ignore[no-untyped-call]
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        exact = F.scaled_dot_product_attention(q[:, None], k, v)[:, 0]
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
    assert len(seen) == sum(lengths) + steps * len(live)


def test_this_machines_batched_products_keep_bits_or_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b) * (1 + 1e-6 * (len(a) % 3))

    monkeypatch.setattr(attention, "torch", type("T", (), {**vars(torch), "matmul": staticmethod(matmul)}))
    assert not batching_keeps_bits(1, 16, torch.float32, CPU)
    monkeypatch.undo()
    for groups, dim in ((1, 16), (2, 16), (1, 64), (4, 128)):
        assert batching_keeps_bits(groups, dim, torch.float32, CPU)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_of_a_step_are_those_of_a_float64_pass(tiny: MakeTiny, family: str) -> None:
    """Prompt logits of every position, in one step with others."""
    model = tiny(family)
    runner = ModelRunner(model.loaded(), 3, 128)
    prompts = random_prompts(41, [20, 32, 7])
    sequences = [Sequence(request(str(i), p), 9, slot=i) for i, p in enumerate(prompts)]
    tokens = torch.zeros(3, 128, dtype=torch.long)
    for i, p in enumerate(prompts):
        tokens[i, : len(p)] = torch.tensor(p)
    step = Step([], [Chunk(s, 0, s.prompt_len) for s in sequences])
    found = runner.run(step, tokens, prompt_logits=frozenset({0, 2}))
    exact = [torch.from_numpy(model.exact_logits(p)) for p in prompts]
    expected = torch.cat([exact[0], exact[1][-1:], exact[2]])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
