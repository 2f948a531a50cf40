"""A card is filled by what was measured, is shared fairly, and a model that does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import block_bytes
from pipeline.engine.config import StatsConfig
from pipeline.engine.steps import card as memory
from pipeline.engine.steps.card import card_bytes, peak, plan_card, step_bytes
from pipeline.errors import ModelRefused
from tests.engine.gpu.device import DEVICE
from tests.engine.gpu.stepping import kernels, loaded
from tests.engine.small.tiny_models import CONTEXT, Tiny

MakeTiny = Callable[..., Tiny]
GIB = 2**30


def test_a_share_of_a_card() -> None:
    assert card_bytes(free=70 * GIB, total=80 * GIB, own=3 * GIB, share=1.0) == 70 * GIB
    # the other one has not begun to fill its half
    assert card_bytes(free=74 * GIB, total=80 * GIB, own=3 * GIB, share=0.5) == 37 * GIB
    # and has taken more than its half
    assert card_bytes(free=20 * GIB, total=80 * GIB, own=3 * GIB, share=0.5) == 20 * GIB
    assert card_bytes(free=1 * GIB, total=8 * GIB, own=5 * GIB, share=0.5) == 0


def plan(tiny: Tiny, available: int, wanted: int | None = None) -> Any:
    return plan_card(
        loaded(tiny), tiny.tokenizer, StatsConfig(), wanted=wanted, most=64, max_len=CONTEXT,
        most_tokens=lambda sequences: sequences + 64,
        available=lambda: available,
    )  # fmt: skip


def test_a_step_is_run_for_nobody_at_its_largest(tiny: MakeTiny) -> None:
    model = tiny()
    with kernels():
        for stats in (StatsConfig(), StatsConfig(prompt_logprobs=True, top_logprobs=3)):
            found = step_bytes(loaded(model), model.tokenizer, stats, 2, CONTEXT, 8)
            assert found > 0 or DEVICE == "cpu"


def test_sequences_and_blocks_fit(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(tiny())
    size = block_bytes(model.layers, model.kv_heads, model.head_dim, model.kv_dtype)
    monkeypatch.setattr(memory, "step_bytes", lambda *_: 10 * 2**20)
    for available in (30 * 2**20, 60 * 2**20, GIB):
        found = plan(tiny(), available)
        taken = found.blocks * size + 2 * 10 * 2**20 + found.sequences * 4 * memory.RULE_TENSORS * model.vocab_size
        assert taken <= available
        assert (found.sequences == 64 and found.blocks == 64 * CONTEXT // BLOCK) or taken > 0.9 * available
    assert plan(tiny(), GIB, wanted=5).sequences == 5
    with pytest.raises(ModelRefused, match="one sequence needs"):
        plan(tiny(), 20 * 2**20)


def test_where_the_largest_step_does_not_fit_a_smaller_one_is_tried(
    tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[int]()

    def limited(model: Any, tokenizer: Any, stats: Any, sequences: int, *_: Any) -> int:
        tried.append(sequences)
        if sequences > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 2**20

    monkeypatch.setattr(memory, "step_bytes", limited)
    assert plan(tiny(), GIB).sequences == 16 and tried == [64, 32, 16]

    def broken(*_: Any) -> int:
        raise RuntimeError("misaligned address")

    monkeypatch.setattr(memory, "step_bytes", broken)
    with pytest.raises(RuntimeError, match="misaligned"):
        plan(tiny(), GIB)


def test_the_peak_is_what_is_taken_at_once() -> None:
    with peak(torch.device(DEVICE)) as found:
        for _ in range(3):
            torch.empty(2**20, dtype=torch.uint8, device=DEVICE)
    assert found.bytes == (0 if DEVICE == "cpu" else 2**20)
