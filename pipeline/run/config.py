"""Where replicas run, and the whole configuration of `generate`. Imports no Ray, so that `--help` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.output.config import OutputConfig
from pipeline.prompts.config import SourceConfig
from pipeline.types import SamplingParams, require

CLUSTERS = ("inline", "local", "existing")


@dataclass(kw_only=True)
class ClusterConfig:
    """Where the replicas run.

    `inline`: in this process, without Ray. `local`: on a Ray that is started for this job and stopped after it.
    `existing`: on the Ray cluster at `address`. `replicas=auto` takes as many as the processors, GPUs and memory hold;
    `cpus_per_replica=auto` shares the cores among them. With `gpus_per_replica=0` the model runs on processors.
    A replica that has work and gets nothing done for `hang_timeout` seconds is ended, and the row that hangs it searched.
    """

    name: str = "local"
    address: str | None = None
    replicas: str = "auto"
    min_replicas: int = 1
    cpus_per_replica: str = "auto"
    gpus_per_replica: float = 0.0
    start_timeout: float = 600.0
    hang_timeout: float = 600.0

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.name in CLUSTERS, "name", self.name, "one of " + ", ".join(CLUSTERS))
        require(_auto_or_count(self.replicas), "replicas", self.replicas, "auto or a whole number from 1")
        require(
            _auto_or_count(self.cpus_per_replica),
            "cpus_per_replica",
            self.cpus_per_replica,
            "auto or a whole number from 1",
        )
        require(self.min_replicas >= 1, "min_replicas", self.min_replicas, "at least 1")
        require(
            self.gpus_per_replica >= 0, "gpus_per_replica", self.gpus_per_replica, "0 or more (fractions share a GPU)"
        )
        require(self.start_timeout > 0, "start_timeout", self.start_timeout, "a number of seconds above 0")
        require(self.hang_timeout > 0, "hang_timeout", self.hang_timeout, "a number of seconds above 0")
        require(
            (self.name == "existing") == (self.address is not None),
            "address",
            self.address,
            "set for cluster=existing, and only there",
        )


def _auto_or_count(value: str) -> bool:
    return value == "auto" or (value.isdigit() and int(value) >= 1)


@dataclass(kw_only=True)
class GenerateConfig:
    """Everything `generate` can be told.

    `max_error_rate`: the job ends with exit code 3 when a larger share of its rows are errors. `deadline`: a local
    time of day such as 06:00 at which the job stops, resumable, with exit code 75.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stats: StatsConfig = field(default_factory=StatsConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    max_error_rate: float = 1.0
    deadline: str | None = None

    def __post_init__(self) -> None:
        """Check the fields that belong to no section."""
        require(0 <= self.max_error_rate <= 1, "max_error_rate", self.max_error_rate, "from 0 to 1")
        time_of_day = self.deadline is None or re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", self.deadline)
        require(bool(time_of_day), "deadline", self.deadline, "null or a local time of day such as 06:00")
