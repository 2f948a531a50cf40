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
from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.memory import available_bytes, fitting_slots
from pipeline.engine.model import LoadedModel, load_model
from pipeline.engine.runner import ModelRunner
from pipeline.engine.static import StaticEngine
from pipeline.engine.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)


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


def model_len(checkpoint: Checkpoint, config: EngineConfig) -> int:
    """Longest prompt plus generation: the model's context, or `engine.max_model_len` if that is less."""
    context = checkpoint.context_length or 2048
    return min(config.max_model_len or context, context)


def build_engine(
    checkpoint: Checkpoint, model: ModelConfig, engine: EngineConfig, stats: StatsConfig, *,
    threads: int | None = None, memory_share: float = 1.0,
) -> BuiltEngine:  # fmt: skip
    """Load a model and put an engine around it.

    Args:
        checkpoint: The model's files.
        model: How to load it.
        engine: How to batch.
        stats: What to compute for each token.
        threads: Processor threads; null: torch's own choice.
        memory_share: Part of the machine's free memory that this engine may take, when several share it.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    max_len = model_len(checkpoint, engine)
    available = available_bytes()
    before = None if available is None else int(available * memory_share)
    loaded = load_model(checkpoint, model, max_len=max_len, plain=engine.name == "static")
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters()) if loaded.device.type == "cpu" else 0
    left = _left(loaded.device, before, memory_share)
    step_bytes = 4 * 10 * loaded.vocab_size * engine.max_num_seqs
    slots = fitting_slots(engine.max_num_seqs, loaded.kv_bytes_per_token * max_len, step_bytes, left)
    if slots < engine.max_num_seqs:
        logger.info(
            "%d sequences of %d tokens fit in memory (engine.max_num_seqs=%d)", slots, max_len, engine.max_num_seqs
        )
    logger.debug("parameters outside the packed linears: %.2f GiB", weights / 2**30)
    tokenizer = load_tokenizer(checkpoint.tokenizer, loaded.vocab_size)
    parts = _Parts(loaded, tokenizer, stats, engine, slots, max_len)
    facts = {
        "device": torch.cuda.get_device_name() if loaded.device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(loaded.dtype).removeprefix("torch."), "linear_kernels": loaded.kernels,
        "batch_invariant": loaded.batch_invariant and engine.name == "continuous",
        "threads": torch.get_num_threads(), "max_num_seqs": slots, "engine": engine.name,
    }  # fmt: skip
    return BuiltEngine(ENGINES[engine.name](parts), tokenizer, max_len, facts)


def _left(device: torch.device, before: int | None, share: float) -> int | None:
    """Bytes free for the cache now that the weights are loaded: of this engine's share, and of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0] * share)
    now = available_bytes()
    return None if now is None or before is None else min(now, int(now * share) if share < 1 else now)
