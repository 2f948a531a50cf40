"""What is measured: a model, how it is run, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.model.files.checkpoint import Checkpoint
from pipeline.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Task:
    """What is measured.

    Attributes:
        checkpoint: The model's files.
        model: How it is loaded, its dtype resolved.
        engine: How it is batched.
        stats: What is computed for each token.
        sampling: How tokens are chosen.
        max_len: Longest sequence, tokens.
        threads: CPU threads.
        scoring: Whether given tokens are scored, and none is generated.
    """

    checkpoint: Checkpoint
    model: ModelConfig
    engine: EngineConfig
    stats: StatsConfig
    sampling: SamplingParams
    max_len: int
    threads: int
    scoring: bool = False
