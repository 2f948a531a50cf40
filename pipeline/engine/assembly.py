"""Builds one of our engines from a configuration: the only place where the engine's parts are put together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from pipeline.engine import gpu, native
from pipeline.engine.base import BuiltEngine, Engine
from pipeline.engine.cache.block_pool import blocks_for
from pipeline.engine.cache.kv_cache import block_bytes
from pipeline.engine.cache.memory import MemoryPlan, Needs, check_length, likely_blocks
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.device import lost
from pipeline.engine.layers.attention import TRITON
from pipeline.engine.layers.linear import PackedLinear
from pipeline.engine.model.files.checkpoint import Checkpoint, model_len
from pipeline.engine.model.load import LoadedModel, load_model
from pipeline.engine.model.tokenizer import Tokenizer, end_tokens, load_tokenizer
from pipeline.engine.rules.grammar_guard import check_in_time
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.setting import caps
from pipeline.engine.static import StaticEngine
from pipeline.engine.steps.card import card_bytes, plan_card
from pipeline.engine.steps.runner import ModelRunner
from pipeline.errors import DeviceFault, PromptmillError
from pipeline.machine import available_bytes, keep_memory, return_memory
from pipeline.stages import doing
from pipeline.types import SamplingParams
from pipeline.wording import named

logger = logging.getLogger(__name__)

_STEP_TENSORS = 10
"""Most float tensors of [rows, vocabulary] that sampling and statistics hold at once."""
_LAYER_TENSORS = 8
"""Most float tensors of [tokens, widest layer] that a step holds at once."""
_MOST = {"cpu": 128, "cuda": 512}
"""Batch size beyond which throughput no longer grows: the linear layers are at the machine's limit."""
_MOST_TOKENS = 256
"""Tokens per step on a CPU, if the configuration does not say."""
_PROMPT_TOKENS = 512
"""Tokens per step on a GPU, in addition to one per sequence, if the configuration does not say."""

_STATIC_BATCH = 16


@dataclass(frozen=True)
class _Parts:
    """The parts of an engine."""

    loaded: LoadedModel
    tokenizer: Tokenizer
    stats: StatsConfig
    config: EngineConfig
    max_len: int
    expected: int | None
    share: float

    @property
    def static(self) -> bool:
        """Whether the engine is the static one."""
        return self.config.name == "static"

    def most_tokens(self, sequences: int) -> int:
        """Most tokens of a step with this many sequences."""
        open_one = _MOST_TOKENS if self.loaded.device.type == "cpu" else sequences + _PROMPT_TOKENS
        return self.config.max_num_batched_tokens or open_one

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of the cache."""
        return _block_bytes(self.loaded)

    def available(self) -> int | None:
        """Bytes of the device's memory that may still be allocated; None: unknown."""
        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()
            return card_bytes(*torch.cuda.mem_get_info(), torch.cuda.memory_reserved(), self.share)
        free = available_bytes()
        return None if free is None else int(free * self.share)

    def plan(self) -> MemoryPlan:
        """Plan sequences and blocks for the device memory that the loaded weights leave."""
        loaded, wanted = self.loaded, self.config.sequences
        most = _STATIC_BATCH if self.static else _MOST[loaded.device.type]
        if loaded.attention == TRITON:
            memory = plan_card(
                loaded, self.tokenizer, self.stats, wanted=wanted, most=most, max_len=self.max_len,
                most_tokens=self.most_tokens, available=lambda: self.available() or 0,
            )  # fmt: skip
        else:
            needs = needs_of(loaded, most, self.most_tokens(wanted or most))
            memory = needs.plan(wanted, self.max_len, self.available())
        if self.static:  # its cache has a whole row for each sequence
            memory = MemoryPlan(min(memory.sequences, memory.blocks // blocks_for(self.max_len)), memory.blocks)
        if memory.sequences < (wanted or 0):
            logger.info("engine.max_num_seqs=%s: memory holds only %d sequences", wanted, memory.sequences)
        return memory


def _block_bytes(loaded: LoadedModel) -> int:
    return block_bytes(loaded.layers, loaded.kv_heads, loaded.head_dim, loaded.kv_dtype)


def needs_of(loaded: LoadedModel, most: int = _MOST["cpu"], most_tokens: int = _MOST_TOKENS) -> Needs:
    """Return what a model takes besides its weights on a CPU.

    Args:
        loaded: The model.
        most: Batch size beyond which throughput no longer grows.
        most_tokens: Most tokens of a step.
    """
    widths = [m.out_features for m in loaded.model.modules() if isinstance(m, PackedLinear)]
    token_bytes = 4 * _LAYER_TENSORS * max((w for w in widths if w != loaded.vocab_size), default=0)
    return Needs(
        most, most_tokens, _block_bytes(loaded), 4 * _STEP_TENSORS * loaded.vocab_size + token_bytes, token_bytes
    )


def _continuous(parts: _Parts, memory: MemoryPlan) -> Engine:
    runner = ModelRunner(parts.loaded, memory.sequences, parts.max_len, memory.blocks)
    likely = likely_blocks(memory, parts.expected, block_bytes=parts.block_bytes, available=parts.available())
    runner.cache.take(likely)
    return ContinuousEngine(
        runner, parts.tokenizer, parts.stats, parts.most_tokens(memory.sequences),
        prefix_caching=parts.config.prefix_caching, expected=parts.expected,
    )  # fmt: skip


def _static(parts: _Parts, memory: MemoryPlan) -> Engine:
    return StaticEngine(parts.loaded, parts.tokenizer, parts.stats, memory.sequences, parts.max_len)


ENGINES: dict[str, Callable[[_Parts, MemoryPlan], Engine]] = {"continuous": _continuous, "static": _static}


def build_engine(
    checkpoint: Checkpoint, model: ModelConfig, engine: EngineConfig, stats: StatsConfig, *,
    device: str = "cpu", threads: int | None = None, memory_share: float = 1.0,
    expected: int | None = None,
) -> BuiltEngine:  # fmt: skip
    """Load a model and build an engine for it.

    Args:
        checkpoint: The model's files.
        model: How to load it.
        engine: How to batch.
        stats: What to compute per token.
        device: `cpu` or `cuda`.
        threads: CPU threads; None: torch's own choice.
        memory_share: Fraction of the device's memory for this engine, when several share it.
        expected: Approximate number of completions that will be requested; None: unknown.

    Raises:
        ModelRefused: If it cannot be loaded here.
        DeviceFault: If the device stopped working meanwhile.
    """
    try:
        return _build(checkpoint, model, engine, stats, device, threads, memory_share, expected)
    except PromptmillError:
        raise
    except Exception as error:
        if lost(torch.device(device)) is None:
            raise
        raise DeviceFault(f"the device stopped working while the model was loading: {named(error)}") from error


def _build(
    checkpoint: Checkpoint, model: ModelConfig, engine: EngineConfig, stats: StatsConfig, device: str,
    threads: int | None, memory_share: float, expected: int | None,
) -> BuiltEngine:  # fmt: skip
    if threads is not None:
        torch.set_num_threads(threads)
    native.use(engine.kernels)
    gpu.use(engine.gpu_kernels)
    max_len = model_len(checkpoint, engine)
    source = checkpoint.context_source if engine.max_model_len is None else f"engine.max_model_len={max_len}"
    check_length(max_len, available_bytes(), source)
    loaded = load_model(
        checkpoint, model, device=device, max_len=max_len, plain=engine.name == "static",
        deterministic=engine.deterministic,
    )  # fmt: skip
    with doing("loading the tokenizer"):
        tokenizer = load_tokenizer(checkpoint.tokenizer, loaded.vocab_size)
    loaded = replace(loaded, eos_token_ids=end_tokens(loaded.eos_token_ids, tokenizer))
    return_memory()  # before the cache's size is chosen from what is free
    keep_memory()
    parts = _Parts(loaded, tokenizer, stats, engine, max_len, expected, memory_share)
    with doing("taking the memory of the KV cache"):
        memory = parts.plan()
        built = ENGINES[engine.name](parts, memory)
    facts = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(loaded.dtype).removeprefix("torch."), "kv_cache_dtype": str(loaded.kv_dtype).removeprefix("torch."),
        "linear_kernels": loaded.kernels, "attention": loaded.attention, "compiled": native.level(),
        "kernels": engine.kernels, "caps": {name: cap for name, cap in caps().items() if cap is not None},
        "batch_invariant": loaded.batch_invariant, "threads": torch.get_num_threads(), "max_num_seqs": memory.sequences,
        "kv_blocks": memory.blocks, "engine": engine.name, **(gpu.facts() if device == "cuda" else {}),
    }  # fmt: skip
    grammars = Grammars(tokenizer, loaded.vocab_size, loaded.eos_token_ids, 1)

    def check(sampling: SamplingParams) -> None:
        grammars.check(sampling)
        check_in_time(sampling)

    return BuiltEngine(
        built, tokenizer, max_len, check, facts, lambda: ENGINES[engine.name](parts, memory),
        partial(lost, loaded.device) if device != "cpu" else None,
    )  # fmt: skip
