"""From a configuration to an engine that runs, and the facts that go to the manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, Tiny, drain, request

from pipeline.engine import build
from pipeline.engine.build import ENGINES, build_engine
from pipeline.engine.config import ENGINES as NAMES
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.errors import ModelRefused

MakeTiny = Callable[..., Tiny]


def built(tiny: MakeTiny, *, threads: int | None = None, model: dict[str, Any] | None = None, **engine: Any) -> Any:
    config = ModelConfig(path=str(tiny().folder), **(model or {}))
    return build_engine(tiny().checkpoint, config, EngineConfig(**engine), StatsConfig(), threads=threads)


@pytest.mark.parametrize("name", NAMES)
def test_every_engine_can_be_built_and_runs(tiny: MakeTiny, name: str) -> None:
    made = built(tiny, name=name, max_num_seqs=3, threads=2)
    assert torch.get_num_threads() == 2
    assert made.max_model_len == CONTEXT
    assert made.facts["engine"] == name and made.facts["threads"] == 2 and made.facts["max_num_seqs"] == 3
    assert made.facts["dtype"] == "float32" and made.facts["device"] == "cpu"
    assert made.facts["batch_invariant"] == (name == "continuous")
    assert bool(made.facts["linear_kernels"]) == (name == "continuous")
    assert len(drain(made.engine, [request("a", [5, 6], max_tokens=3)])["a", 0].token_ids) == 3
    assert set(ENGINES) == set(NAMES)


def test_int8_is_told_in_the_facts(tiny: MakeTiny) -> None:
    assert built(tiny, model={"quantization": "int8"}).facts["linear_kernels"] == {"int8": 9}


def test_the_length_is_limited(tiny: MakeTiny) -> None:
    made = built(tiny, max_model_len=40)
    assert made.max_model_len == 40
    assert len(drain(made.engine, [request("a", [5] * 37, max_tokens=9, ignore_eos=True)])["a", 0].token_ids) == 3


def test_memory_limits_the_slots(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_bytes", lambda: 40 * 2**20)
    made = built(tiny, max_num_seqs=1000)
    assert 1 <= made.facts["max_num_seqs"] < 1000
    drain(made.engine, [request(str(i), [5, 6], max_tokens=2) for i in range(200)])
    monkeypatch.setattr(build, "available_bytes", lambda: 1000)
    with pytest.raises(ModelRefused, match="one sequence needs"):
        built(tiny)
