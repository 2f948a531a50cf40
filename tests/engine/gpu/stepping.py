"""An engine with the GPU's kernels, on a GPU or in the interpreter, and graphs that are replayed as a GPU replays them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.engine import gpu
from pipeline.engine.config import ModelConfig, StatsConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.layers import attention
from pipeline.engine.model.load import LoadedModel, load_model
from pipeline.engine.steps import graphs as stepper
from pipeline.engine.steps.recording import Recordings
from pipeline.engine.steps.runner import ModelRunner
from tests.engine.gpu.device import DEVICE
from tests.engine.small.tiny_models import CONTEXT, Tiny


class Blind(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: a look at a tensor's content, shapes that follow from it, the host's numbers."""

    NAMES = frozenset({"item", "is_nonzero", "nonzero", "masked_select", "equal", "lift_fresh", "bincount", "_unique2"})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        assert name not in self.NAMES, f"{func} within what is recorded"
        return func(*args, **(kwargs or {}))


class Replaying(Recordings):
    """On a processor: what is run under a key is always the function that was first run under it, into the same tensors."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.functions: dict[Hashable, tuple[Callable[[], Any], Any]] = {}
        self.replays = 0

    def run(self, what: str, key: Hashable, function: Callable[[], Any]) -> Any:
        if self._device.type == "cuda" or self._dropped:
            self.replays += key in self.functions
            self.functions[key] = function, None
            return super().run(what, key, function)
        if key not in self.functions:
            with Blind():
                self.functions[key] = function, function()
            return self.functions[key][1]
        first, kept = self.functions[key]
        self.replays += 1
        for name, tensor in (first() or {}).items():
            kept[name].copy_(tensor)
        return kept


@contextmanager
def kernels() -> Iterator[None]:
    """The GPU's kernels serve the device of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "DEVICES", frozenset({"cuda", DEVICE}))
        patch.setattr(gpu, "works", lambda _: True)  # the sampler's own tests say so
        if DEVICE == "cpu":  # so do those of attention, and the interpreter takes ten seconds for the check at loading
            patch.setattr(attention, "kernels_are_right", lambda *_: True)
        patch.setattr(stepper, "Recordings", Replaying)
        yield


@functools.cache
def loaded(tiny: Tiny, kv: str = "auto", dtype: str = "float32") -> LoadedModel:
    config = ModelConfig(path=str(tiny.folder), dtype=dtype, kv_cache_dtype=kv)
    with kernels():
        return load_model(tiny.checkpoint, config, device=DEVICE)


@contextmanager
def engine(
    tiny: Tiny, slots: int = 4, *, tokens: int = 256, kv: str = "auto", dtype: str = "float32", blocks: int | None = None,
    share: bool = True, **stats: Any,
) -> Iterator[ContinuousEngine]:  # fmt: skip
    """An engine whose steps are those of a GPU."""
    with kernels():
        runner = ModelRunner(loaded(tiny, kv, dtype), slots, CONTEXT, blocks)
        yield ContinuousEngine(runner, tiny.tokenizer, StatsConfig(**stats), tokens, prefix_caching=share)
