"""The backend of our own engines: finds and checks a checkpoint without torch, and imports torch to build an engine."""

from __future__ import annotations

import functools
import gc
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pipeline import types
from pipeline.engine.base import BuiltEngine, Identity, Resources
from pipeline.engine.calibration.figures import Calibration
from pipeline.engine.calibration.known import keep_calibration, key_of, known_calibration
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.libraries import import_libraries
from pipeline.engine.model.chat import find_template
from pipeline.engine.model.files.checkpoint import Checkpoint, model_len, resolve
from pipeline.engine.model.files.ignored import ignored
from pipeline.engine.model.files.provenance import misfits, provenance
from pipeline.engine.model.quick import quick_tokenizer
from pipeline.engine.model.tokenizer import Tokenizer, load_tokenizer
from pipeline.engine.rules.structured import Grammars
from pipeline.machine import compute_capability
from pipeline.stages import doing
from pipeline.statistics import STATISTICS
from pipeline.types import ChatFormat, SamplingParams

MULTIPLIES_BFLOAT16 = (8, 0)
"""Least compute capability that does so; others emulate it."""
_INT8_SCHEME = 2
"""Version of the `int8` quantisation, part of the plan: a run begun with another version is not resumed with this one."""


class ContinuousBackend:
    """A checkpoint in safetensors, from a directory or the hub, run by the continuous engine; see `Backend`."""

    kind = "continuous"
    """The engine that it builds."""

    def __init__(self, model: ModelConfig, engine: EngineConfig) -> None:
        """Keep the configuration."""
        self._model, self._engine = model, engine

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's files on this machine."""
        return resolve(self._model)

    def identify(self, *, gpus: float, fresh: bool = False) -> Identity:
        """See `Backend.identify`."""
        model, engine, checkpoint = self._model, self._engine, self.checkpoint
        dtype = self._dtype(gpus)
        rounding: dict[str, Any] = {"tf32": True} if gpus and model.tf32 else {}
        batching: dict[str, Any] = {"deterministic": False} if gpus and not engine.deterministic else {}
        if engine.kernels == "none" and not gpus:
            # torch's sums differ in their last bits; compiled levels agree with each other, except in bfloat16
            batching["kernels"] = "none"
        if gpus and engine.gpu_kernels == "off":
            batching["gpu_kernels"] = "off"
        if model.quantization == "int8":
            rounding["int8_scheme"] = _INT8_SCHEME
        kv_dtype = dtype if model.kv_cache_dtype == "auto" else model.kv_cache_dtype
        weight_bytes = checkpoint.weight_bytes
        longest = model_len(checkpoint, engine)
        content = checkpoint.content(fresh=fresh)
        return Identity(
            content=content,
            model={"dtype": dtype, "quantization": model.quantization, "kv_cache_dtype": kv_dtype, **rounding},
            engine=batching,
            dtype=dtype, max_model_len=longest, vocab_size=checkpoint.vocab_size, weight_bytes=weight_bytes,
            parameters=weight_bytes / (2 if "16" in checkpoint.dtype else 4), statistics=frozenset(STATISTICS),
            chat_template=find_template(checkpoint.tokenizer), notes=self._notes(dtype, gpus), scores=True,
            provenance=provenance(checkpoint, content), doubts=tuple(misfits(checkpoint)),
        )  # fmt: skip

    def check(self, sampling: SamplingParams) -> Sequence[str]:
        """See `Backend.check`. It loads the tokenizer, which takes seconds, for structured output only."""
        size = self.checkpoint.vocab_size
        if sampling.structured is not None and size is not None:
            Grammars(self._tokenizer, size, (), 1).check(sampling)
        return tuple(ignored(self.checkpoint, sampling))

    def check_chat(self, form: ChatFormat) -> None:
        """See `Backend.check_chat`."""
        self._tokenizer.chat(form)

    def tokenizer(self, *, quick: bool) -> types.Tokenizer | None:
        """See `Foreseeable.tokenizer`."""
        if quick and "_tokenizer" not in vars(self):
            return quick_tokenizer(self.checkpoint.tokenizer, self.checkpoint.vocab_size)
        return self._tokenizer

    def calibration(
        self, stats: StatsConfig, sampling: SamplingParams, threads: int, measure: Callable[[int, int], None] | None,
        *, scoring: bool = False,
    ) -> Calibration | None:  # fmt: skip
        """See `Foreseeable.calibration`."""
        checkpoint, max_len = self.checkpoint, model_len(self.checkpoint, self._engine)
        model = replace(self._model, dtype=self._dtype(0))
        key = key_of(checkpoint, model, self._engine, stats, None if scoring else sampling, max_len, threads)
        found = known_calibration(key)
        if measure is not None and (found is None or found.disturbed):
            began = time.process_time()  # of the processor: the files are in memory when the job begins
            _assembly()
            importing = time.process_time() - began
            from pipeline.engine.calibration.drawn import layers_to_measure  # with torch, which is there now
            from pipeline.engine.calibration.measure import calibrate
            from pipeline.engine.calibration.task import Task

            measure(*reversed(layers_to_measure(checkpoint)))
            task = Task(checkpoint, model, self._engine, stats, sampling, max_len, threads, scoring)
            found = replace(calibrate(task), importing=importing)
            keep_calibration(key, found)
        return found

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.checkpoint.tokenizer, self.checkpoint.vocab_size or 0)

    def build(self, stats: StatsConfig, resources: Resources) -> BuiltEngine:
        """See `Backend.build`."""
        name = self._engine.name
        built = _assembly()(
            self.checkpoint, self._model, replace(self._engine, name=self.kind), stats, device=resources.device,
            threads=resources.threads, memory_share=resources.memory_share, expected=resources.expected,
        )  # fmt: skip
        return replace(built, facts={**built.facts, "engine": name})

    def _dtype(self, gpus: float) -> str:
        """Resolve `auto`: float32 on a CPU, a type of 16 bits on a GPU.

        The plan has the resolved dtype, so that a run begun on one kind of device is not resumed in another dtype.
        """
        if self._model.dtype != "auto":
            return self._model.dtype
        if not gpus:
            return "float32"
        capability = compute_capability()  # of this machine; a cluster's GPUs are taken to be no older
        return self.checkpoint.gpu_dtype(bfloat16=capability is None or capability >= MULTIPLIES_BFLOAT16)

    def _notes(self, dtype: str, gpus: float) -> tuple[str, ...]:
        if not gpus or self._model.dtype != "auto" or dtype == self.checkpoint.dtype:
            return ()
        return (
            f"model.dtype=auto: this checkpoint is in {self.checkpoint.dtype}, which a GPU multiplies slowly, so it runs in "
            f"{dtype}; model.dtype=float32 keeps every bit of it",
        )


class StaticBackend(ContinuousBackend):
    """The same checkpoint, run by the static engine with transformers' own arithmetic."""

    kind = "static"

    def calibration(
        self, stats: StatsConfig, sampling: SamplingParams, threads: int, measure: Callable[[int, int], None] | None,
        *, scoring: bool = False,
    ) -> Calibration | None:  # fmt: skip
        """None: it serves to check the other engine, and its speed is nobody's concern."""
        return None


def _assembly() -> Callable[..., BuiltEngine]:
    """Import the engine's modules, and torch and transformers with them.

    The import makes some hundred thousand objects that live as long as the process. Excluding them from garbage collection
    saves a sixth of the time to the first token. Among them are exceptions that the libraries caught, and these hold the frames
    of all their callers. A thread of its own has no callers, so that no engine stays in memory after its run for that.
    """
    first = "pipeline.engine.assembly" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        with doing("importing torch and transformers"), ThreadPoolExecutor(1, "import") as alone:
            alone.submit(_import_assembly).result()
    finally:
        if first:
            gc.freeze()
            gc.enable()
    return _import_assembly()


def _import_assembly() -> Callable[..., BuiltEngine]:
    import_libraries()
    from pipeline.engine.assembly import build_engine

    return build_engine
