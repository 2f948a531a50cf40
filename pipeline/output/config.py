"""The options of the output folder and its files. Imports no Arrow, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.types import require

COMPRESSIONS = {"none": None, "snappy": None, "lz4": None, "gzip": (1, 9), "brotli": (0, 11), "zstd": (1, 22)}


@dataclass(kw_only=True)
class OutputConfig:
    """The output folder and its Parquet files.

    `rows_per_shard` input rows make one part: the unit that is committed and, after a crash, repeated. None: as many as
    take about five minutes by a careful estimate, at most 1000, so that a stop loses at most ten minutes of work.
    `allow_unsafe_store` accepts an object store without put-if-absent, where two drivers may overwrite each other's files.
    """

    path: str = field(
        default="???",
        metadata={
            "help": "a directory or a URI such as s3://bucket/first; if it holds parts of this same run, the rest is done"
        },
    )
    rows_per_shard: int | None = field(
        default=None,
        metadata={
            "help": "input rows per part, the unit that a crash repeats; null: a crash loses at most ten minutes of work"
        },
    )
    compression: str = field(default="zstd", metadata={"help": "none, snappy, lz4, gzip, brotli or zstd"})
    compression_level: int | None = field(
        default=3, metadata={"help": "gzip 1 to 9, brotli 0 to 11, zstd 1 to 22; null is the format's own"}
    )
    include_prompt: bool = field(default=True, metadata={"help": "write the rendered prompt with its generation"})
    messages: bool = field(
        default=False,
        metadata={"help": "in a chat, write the conversation with its answer, as trl and datasets read it"},
    )
    report: bool = field(
        default=True, metadata={"help": "write report.html, a page about the run, when it is complete; changes no row"}
    )
    allow_unsafe_store: bool = field(
        default=False,
        metadata={"help": "accept an object store without put-if-absent, where only one driver may ever write"},
    )

    def __post_init__(self) -> None:
        """Check every field."""
        require(bool(self.path.strip()), "path", self.path, "a directory or a URI")
        rows = self.rows_per_shard
        require(rows is None or rows >= 1, "rows_per_shard", rows, "null (by the work that a row is) or at least 1")
        require(self.compression in COMPRESSIONS, "compression", self.compression, "one of " + ", ".join(COMPRESSIONS))
        levels = COMPRESSIONS[self.compression]
        if levels is None:
            self.compression_level = None
        elif self.compression_level is not None:
            low, high = levels
            require(
                low <= self.compression_level <= high,
                "compression_level",
                self.compression_level,
                f"from {low} to {high} for {self.compression}",
            )
