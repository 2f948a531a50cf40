"""From a configuration to a running engine: the one place where the engine's parts are put together.

To add an engine: write its module and add a line to `ENGINES`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.engine.base import Engine
from pipeline.engine.checkpoint import Checkpoint, model_len
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.kv_cache import length_classes
from pipeline.engine.memory import available_bytes, fitting_slots
from pipeline.engine.model import LoadedModel, load_model
from pipeline.engine.runner import ModelRunner
from pipeline.engine.static import StaticEngine
from pipeline.engine.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

_STEP_TENSORS = 10
"""Float tensors of rows x vocabulary that sampling and statistics hold at once, at most."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine with what its feeder must know.

    Attributes:
        engine: The engine.
        tokenizer: The model's tokenizer.
        max_model_len: Longest prompt plus generation.
        facts: What the identity of the output's bytes rests on here, for the manifest: processor, kernels, type, threads.
    """

    engine: Engine
    tokenizer: Tokenizer
    max_model_len: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Parts:
    loaded: LoadedModel
    tokenizer: Tokenizer
    stats: StatsConfig
    config: EngineConfig
    slots: int
    max_len: int


def _continuous(parts: _Parts) -> Engine:
    runner = ModelRunner(parts.loaded, parts.slots, parts.max_len)
    return ContinuousEngine(runner, parts.tokenizer, parts.stats, parts.config.max_num_batched_tokens)


def _static(parts: _Parts) -> Engine:
    return StaticEngine(parts.loaded, parts.tokenizer, parts.stats, parts.slots, parts.max_len)


ENGINES: dict[str, Callable[[_Parts], Engine]] = {"continuous": _continuous, "static": _static}


def build_engine(
    checkpoint: Checkpoint, model: ModelConfig, engine: EngineConfig, stats: StatsConfig, *,
    device: str = "cpu", threads: int | None = None, memory_share: float = 1.0,
) -> BuiltEngine:  # fmt: skip
    """Load a model and put an engine around it.

    Args:
        checkpoint: The model's files.
        model: How to load it.
        engine: How to batch.
        stats: What to compute for each token.
        device: `cpu` or `cuda`.
        threads: Processor threads; null: torch's own choice.
        memory_share: Part of the device's free memory that this engine may take, when several share it.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    max_len = model_len(checkpoint, engine)
    loaded = load_model(checkpoint, model, device=device, max_len=max_len, plain=engine.name == "static")
    slot_bytes = loaded.kv_bytes_per_token * length_classes(max_len)[-1]
    step_bytes = _STEP_TENSORS * 4 * loaded.vocab_size * engine.max_num_seqs
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else available_bytes()
    slots = fitting_slots(
        engine.max_num_seqs, slot_bytes, step_bytes, None if free is None else int(free * memory_share)
    )
    if slots < engine.max_num_seqs:
        logger.info(
            "%d sequences of %d tokens fit in memory (engine.max_num_seqs=%d)", slots, max_len, engine.max_num_seqs
        )
    tokenizer = load_tokenizer(checkpoint.tokenizer, loaded.vocab_size)
    built = ENGINES[engine.name](_Parts(loaded, tokenizer, stats, engine, slots, max_len))
    facts = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(loaded.dtype).removeprefix("torch."), "linear_kernels": loaded.kernels,
        "batch_invariant": loaded.batch_invariant,
        "threads": torch.get_num_threads(), "max_num_seqs": slots, "engine": engine.name,
    }  # fmt: skip
    return BuiltEngine(built, tokenizer, max_len, facts)
