"""The options of the cluster, and the whole configuration of `generate`. Imports no Ray, so that `--help` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.machine import cores
from pipeline.output.config import OutputConfig
from pipeline.prompts.config import SourceConfig
from pipeline.sampling import require
from pipeline.work.sampling import SamplingConfig

NOWHERE = "preview://"
"""`output.path` of a preview that was given none."""
CLUSTERS = ("inline", "local", "existing")
CORES_A_REPLICA = 8
"""With more threads than this a decoding step does not scale: its matrix products have few rows."""
_UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)?", re.IGNORECASE)


@dataclass(kw_only=True)
class ClusterConfig:
    """Where the replicas run.

    `inline`: in this process, without Ray. `local`: on a Ray that this job starts and stops.
    `existing`: on the Ray cluster at `address`. `replicas=auto` starts as many as processors, GPUs and memory allow;
    `cpus_per_replica=auto` divides the cores among them. With `gpus_per_replica=0` the model runs on the CPU.
    `memory_per_replica` is what a node of a cluster must have free for a replica: `auto` for twice the weights and 1 GiB,
    or an amount such as 6GiB; 0 ignores memory. With `ship_code`, the nodes of a cluster run this process's code,
    otherwise the promptmill that is installed there.
    A replica that has work and makes no progress for `hang_timeout` seconds is ended, and the row that hangs it is searched
    for.
    """

    name: str = field(default="local", metadata={"help": "inline, local or existing"})
    address: str | None = field(
        default=None, metadata={"help": "with cluster=existing: the address of the Ray cluster, or auto"}
    )
    replicas: str = field(
        default="auto",
        metadata={"help": "copies of the model: a number, or auto for as many as processors, GPUs and memory allow"},
    )
    min_replicas: int = field(default=1, metadata={"help": "the job does not start with fewer"})
    cpus_per_replica: str = field(
        default="auto", metadata={"help": "a number, or auto to divide the cores among the replicas"}
    )
    gpus_per_replica: float = field(default=0.0, metadata={"help": "0, or 1; fractions share a GPU"})
    memory_per_replica: str = field(
        default="auto",
        metadata={
            "help": "free memory that a cluster's node must have per replica, such as 6GiB; auto: twice the weights and 1GiB"
        },
    )
    ship_code: bool = field(
        default=True, metadata={"help": "nodes of a cluster run this installation's code instead of their own"}
    )
    start_timeout: float = field(
        default=600.0, metadata={"help": "seconds to wait for the resources of the first replicas"}
    )
    hang_timeout: float = field(
        default=600.0,
        metadata={"help": "seconds without progress after which a replica counts as hung and is replaced"},
    )

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
            0 <= self.gpus_per_replica <= 1, "gpus_per_replica", self.gpus_per_replica,
            "from 0 to 1: a replica uses one GPU, and fractions share one",
        )  # fmt: skip
        require(
            self.memory_per_replica == "auto" or _AMOUNT.fullmatch(self.memory_per_replica) is not None,
            "memory_per_replica", self.memory_per_replica, "auto, or an amount such as 6GiB or 6000MB",
        )  # fmt: skip
        require(self.start_timeout > 0, "start_timeout", self.start_timeout, "a number of seconds above 0")
        require(self.hang_timeout > 0, "hang_timeout", self.hang_timeout, "a number of seconds above 0")
        require(
            (self.name == "existing") == (self.address is not None),
            "address",
            self.address,
            "set for cluster=existing, and only there",
        )

    def likely_threads(self) -> int:
        """Return the least number of threads that a replica will have, as far as it is known before the nodes are."""
        if self.cpus_per_replica != "auto":
            return int(self.cpus_per_replica)
        if self.name == "inline":
            return cores()
        return max(1, cores() // int(self.replicas) if self.replicas != "auto" else min(cores(), CORES_A_REPLICA))


_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):[0-5]\d")
_FROM_NOW = re.compile(r"\+(?=\d)(?:(\d{1,3})h)?(?:(\d{1,4})m(?:in)?)?")


def bytes_of(amount: str) -> int:
    """Return the bytes of an amount such as `6GiB`, `6000MB` or `0`."""
    match = _AMOUNT.fullmatch(amount)
    assert match is not None, amount
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def _auto_or_count(value: str) -> bool:
    return value == "auto" or (value.isdecimal() and int(value) >= 1)


@dataclass(kw_only=True)
class GenerateConfig:
    """All options of `generate`.

    `max_error_rate`: the job ends with exit code 3 when a larger share of its rows are errors. `deadline`: a local
    time of day such as 06:00, or a time from the start such as +8h, at which the job stops, resumable, with exit code 75.
    """

    model: ModelConfig = field(default_factory=ModelConfig, metadata={"help": "which causal language model"})
    engine: EngineConfig = field(
        default_factory=EngineConfig,
        metadata={
            "help": "batching: affects speed only, except max_model_len, kernels=none; on a GPU, deterministic, gpu_kernels"
        },
    )
    sampling: SamplingConfig = field(
        default_factory=SamplingConfig, metadata={"help": "how tokens are chosen, and when a completion ends"}
    )
    stats: StatsConfig = field(
        default_factory=StatsConfig,
        metadata={"help": "what is written per token, all under the model's own distribution"},
    )
    source: SourceConfig = field(default_factory=SourceConfig, metadata={"help": "where prompts come from"})
    output: OutputConfig = field(default_factory=OutputConfig, metadata={"help": "where generations go"})
    cluster: ClusterConfig = field(
        default_factory=ClusterConfig, metadata={"help": "where replicas run: affects speed only, never the output"}
    )
    max_error_rate: float = field(
        default=1.0, metadata={"help": "exit code 3 when a larger share of the rows are errors"}
    )
    preview: int | None = field(
        default=None,
        metadata={
            "help": "generate from this many rows, print the result and stop; nothing is written, output.path is not needed"
        },
    )
    preview_random: bool = field(
        default=False, metadata={"help": "preview rows spread evenly over the input, not the first ones"}
    )
    deadline: str | None = field(
        default=None,
        metadata={
            "help": "stop, resumable, at a time of day such as 06:00 (quoted in YAML) or after a time such as +8h"
        },
    )

    def __post_init__(self) -> None:
        """Check the fields that belong to no section, and those that need another section."""
        if self.output.messages and not self.source.is_chat:
            raise ValueError("output.messages=true: must be false without source.chat=true or source.messages_column")
        require(self.preview is None or self.preview >= 1, "preview", self.preview, "null or a number of rows from 1")
        require(
            not self.preview_random or self.preview is not None, "preview_random", self.preview_random,
            "given with preview=ROWS",
        )  # fmt: skip
        require(0 <= self.max_error_rate <= 1, "max_error_rate", self.max_error_rate, "from 0 to 1")
        good = self.deadline is None or _TIME_OF_DAY.fullmatch(self.deadline) or _FROM_NOW.fullmatch(self.deadline)
        require(
            bool(good),
            "deadline",
            self.deadline,
            "null, a local time of day such as 06:00, or +8h or +1h30m from the start",
        )

    def deadline_after(self, now: datetime) -> datetime | None:
        """Return when a job that starts at local time `now` has to stop; None: no deadline."""
        if self.deadline is None:
            return None
        if (span := _FROM_NOW.fullmatch(self.deadline)) is not None:
            return now + timedelta(hours=int(span[1] or 0), minutes=int(span[2] or 0))
        hour, minute = map(int, self.deadline.split(":"))
        moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return moment if moment > now else moment + timedelta(days=1)
