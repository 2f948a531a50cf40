"""The job: all that a worker must know, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.output.config import OutputConfig
from pipeline.planning.plan import Plan
from pipeline.prompts.config import SourceConfig
from pipeline.types import SamplingParams


@dataclass(frozen=True)
class Job:
    """All that a worker must know to make any shard of a plan. It can be sent to another process.

    `columns` is the Arrow schema of the input, partition columns included. `device` is `cpu` or `cuda`.
    """

    plan: Plan
    columns: Any
    model: ModelConfig
    engine: EngineConfig
    sampling: SamplingParams
    stats: StatsConfig
    source: SourceConfig
    output: OutputConfig
    device: str = "cpu"
