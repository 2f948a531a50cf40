"""What the parts share: the models in their folder, one engine at a time, the time that is left.

It does not know any part.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from benchmarks.gpu.device import Cpu, Cuda
from benchmarks.gpu.report import Reporter
from benchmarks.gpu.scale import Scale, Shape
from benchmarks.parts.sizes import TOKENIZER, Linears, linears
from pipeline.engine.assembly import build_engine
from pipeline.engine.base import BuiltEngine, Engine
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.types import Completion, Request

DEMO = TOKENIZER
"""The repository's embedded model; its tokenizer serves the others too, as their prompts are token ids."""


class Bench:
    """Everything that a part needs.

    Args:
        device: Where to measure.
        scale: How large.
        folder: Where models are written.
        report: Where results go.
        deadline: Seconds since 1970 by which all should be over.
    """

    def __init__(self, device: Cpu | Cuda, scale: Scale, folder: Path, report: Reporter, deadline: float) -> None:
        """Start with no engine."""
        self.device, self.scale, self.folder, self.report, self.deadline = device, scale, folder, report, deadline
        self._key: object = None
        self._built: BuiltEngine | None = None
        self._peer: Any = None

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.time()

    @property
    def large(self) -> Path:
        """The model whose speed is measured, in bfloat16."""
        return self._model("large", self.scale.large, torch.bfloat16)

    @property
    def small(self) -> Path:
        """The model whose numbers are compared, in float32."""
        return self._model("small", self.scale.small, torch.float32)

    @property
    def sizes(self) -> Linears:
        """Of the large model."""
        return linears(self.large)

    def _model(self, name: str, shape: Shape, dtype: torch.dtype) -> Path:
        folder = self.folder / name
        if not (folder / "tokenizer.json").exists():  # written last
            write_model(folder, shape, dtype, self.device.kind)
        return folder

    def engine(
        self, model: Path, *, seqs: int, dtype: str = "bfloat16", stats: dict[str, Any] | None = None,
        loading: dict[str, Any] | None = None, **options: Any,
    ) -> BuiltEngine:  # fmt: skip
        """An engine; the last one is kept as long as the same is asked for.

        Args:
            model: Its folder.
            seqs: Sequences at once.
            dtype: Type of the weights.
            stats: Options of the statistics; None: all three.
            loading: More options of the model.
            options: More options of the engine.
        """
        key = model, seqs, dtype, stats, loading, options
        if self._built is None or self._key != key:
            self.close()
            loaded = ModelConfig(path=str(model), dtype=dtype, **(loading or {}))
            config = EngineConfig(max_num_seqs=str(seqs), **options)
            start = time.perf_counter()
            self._built = build_engine(
                resolve(loaded), loaded, config, StatsConfig(**(stats or {})), device=self.device.kind
            )
            self._key = key
            self.report.event("engine", seconds=round(time.perf_counter() - start, 2), facts=self._built.facts)
            gc.collect()
            gc.freeze()  # as the worker does
        return self._built

    def large_engine(self, *, seqs: int | None = None, **options: Any) -> BuiltEngine:
        """The large model's engine."""
        return self.engine(self.large, seqs=seqs or self.scale.seqs, max_model_len=self.scale.max_len, **options)

    def peer(self) -> Any:
        """The large model as transformers has it: bfloat16, torch's attention."""
        if self._peer is None:
            self._peer = AutoModelForCausalLM.from_pretrained(
                self.large, dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True
            )
            self._peer.eval().requires_grad_(False).to(self.device.kind)
        return self._peer

    def close(self) -> None:
        """Let go of the engine and its memory."""
        self._key = self._built = None
        self.device.release()

    def close_peer(self) -> None:
        """Let go of the peer."""
        self._peer = None
        self.device.release()

    def close_all(self) -> None:
        """Let go of both."""
        self._peer = None
        self.close()


def write_model(folder: Path, shape: Shape, dtype: torch.dtype, device: str) -> None:
    """Write a GPT-2 with random weights, made on the device as that is quicker there."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads, n_positions=shape.positions,
        vocab_size=shape.vocab, initializer_range=shape.spread, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.device(device):
        model = GPT2LMHeadModel(config)
    model.to(dtype).save_pretrained(folder)
    for file in ("tokenizer_config.json", "tokenizer.json"):
        shutil.copy(TOKENIZER / file, folder)


def finish(engine: Engine, requests: Sequence[Request]) -> dict[tuple[str, int], Completion]:
    """Run requests to their end: (row id, sample) → completion."""
    engine.add(requests)
    done: dict[tuple[str, int], Completion] = {}
    while any(engine.load()):
        done |= {(c.request.row_id, c.request.sample_index): c for c in engine.step()}
    return done
