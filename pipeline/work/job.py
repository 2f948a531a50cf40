"""Defines the job: everything that a worker needs, wherever it runs."""

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
    """Everything that a worker needs to make any shard of a plan. It can be sent to another process.

    Attributes:
        plan: The plan.
        columns: Arrow schema of the input, partition columns included.
        schema: Arrow schema of the parts.
        model: The model, with its dtype resolved and its paths absolute.
        engine: The engine.
        sampling: The job's sampling parameters, which a row may override.
        stats: The statistics.
        source: The input.
        output: The output.
        device: `cpu` or `cuda`.
    """

    plan: Plan
    columns: Any
    schema: Any
    model: ModelConfig
    engine: EngineConfig
    sampling: SamplingParams
    stats: StatsConfig
    source: SourceConfig
    output: OutputConfig
    device: str = "cpu"
