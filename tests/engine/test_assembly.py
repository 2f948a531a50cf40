"""From a configuration to an engine that runs, and the facts that go to the manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.engine import assembly as build
from pipeline.engine.assembly import ENGINES, build_engine
from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.memory import MemoryPlan
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.registry import BACKENDS
from pipeline.errors import ModelRefused
from tests.engine.small.tiny_models import CONTEXT, Tiny, drain, request

MakeTiny = Callable[..., Tiny]


def built(tiny: MakeTiny, *, threads: int | None = None, model: dict[str, Any] | None = None, **engine: Any) -> Any:
    config = ModelConfig(path=str(tiny().folder), **(model or {}))
    return build_engine(tiny().checkpoint, config, EngineConfig(**engine), StatsConfig(), threads=threads)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_engine_can_be_built_and_runs(tiny: MakeTiny, name: str) -> None:
    made = built(tiny, name=name, max_num_seqs=3, threads=2)
    assert torch.get_num_threads() == 2
    assert made.max_model_len == CONTEXT
    assert made.facts["engine"] == name and made.facts["threads"] == 2 and made.facts["max_num_seqs"] == 3
    assert made.facts["dtype"] == made.facts["kv_cache_dtype"] == "float32" and made.facts["device"] == "cpu"
    assert made.facts["attention"].partition("-")[0] in (("native", "torch") if name == "continuous" else ("",))
    assert made.facts["batch_invariant"] == (name == "continuous")
    assert bool(made.facts["linear_kernels"]) == (name == "continuous")
    assert len(drain(made.engine, [request("a", [5, 6], max_tokens=3)])["a", 0].token_ids) == 3
    assert set(ENGINES) == set(BACKENDS)


def test_int8_is_told_in_the_facts(tiny: MakeTiny) -> None:
    ((name, number),) = built(tiny, model={"quantization": "int8"}).facts["linear_kernels"].items()
    assert name.startswith("int8") and number == 9


def test_what_limits_torchs_libraries_is_told_in_the_facts(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """With MKL_CBWR, MKL gives other bits; oneDNN knows its own variable by two names."""
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert built(tiny).facts["caps"] == {}
    for name in names:
        monkeypatch.setenv(name, "AVX2")
    assert built(tiny).facts["caps"] == dict.fromkeys(names, "AVX2")


def test_the_length_is_limited(tiny: MakeTiny) -> None:
    made = built(tiny, max_model_len=40)
    assert made.max_model_len == 40
    assert len(drain(made.engine, [request("a", [5] * 37, max_tokens=9, ignore_eos=True)])["a", 0].token_ids) == 3


def test_the_caches_type(tiny: MakeTiny) -> None:
    made = built(tiny, model={"kv_cache_dtype": "bfloat16"})
    assert (made.facts["dtype"], made.facts["kv_cache_dtype"]) == ("float32", "bfloat16")
    assert len(drain(made.engine, [request("a", [5] * 40, max_tokens=3, ignore_eos=True)])["a", 0].token_ids) == 3


def test_as_many_sequences_as_gain_anything(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_bytes", lambda: 2**40)
    facts = built(tiny).facts
    assert (facts["max_num_seqs"], facts["kv_blocks"]) == (128, 128 * CONTEXT // BLOCK)
    assert built(tiny, max_num_seqs="1000").facts["max_num_seqs"] == 1000


def test_a_replica_plans_with_its_share(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_bytes", lambda: 16 * 2**20)
    config = ModelConfig(path=str(tiny().folder))
    whole, half = (
        build_engine(tiny().checkpoint, config, EngineConfig(), StatsConfig(), memory_share=share).facts
        for share in (1.0, 0.5)
    )
    assert half["kv_blocks"] < whole["kv_blocks"] < 128 * CONTEXT // BLOCK


@pytest.mark.parametrize("name", BACKENDS)
def test_memory_limits_the_sequences(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(build, "available_bytes", lambda: 40 * 2**20)
    made = built(tiny, name=name, max_num_seqs="1000")
    planned = made.facts["max_num_seqs"]
    assert 1 <= planned < 1000
    made.engine.add([request(str(i), [5, 6], max_tokens=2) for i in range(200)])
    made.engine.step()
    assert made.engine.load()[1] == max(0, 200 - planned)
    drain(made.engine)
    monkeypatch.setattr(build, "available_bytes", lambda: 1000)
    with pytest.raises(ModelRefused, match="one sequence needs"):
        built(tiny, name=name)


def test_the_static_engine_has_a_whole_row_for_each_sequence(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = MemoryPlan(sequences=8, blocks=3 * CONTEXT // BLOCK + 1)  # of which 8 sequences might well do for short ones
    monkeypatch.setattr("pipeline.engine.cache.memory.plan_memory", lambda *_, **__: plan)
    made = built(tiny, name="static", max_num_seqs="8")
    made.engine.add([request(str(i), [5, 6], max_tokens=2) for i in range(8)])
    made.engine.step()
    assert made.facts["max_num_seqs"] == made.engine.load()[0] == 3
