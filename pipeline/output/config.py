"""Where the output goes and how its files are written. Knows no Arrow, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.types import require

COMPRESSIONS = {"none": None, "snappy": None, "lz4": None, "gzip": (1, 9), "brotli": (0, 11), "zstd": (1, 22)}


@dataclass(kw_only=True)
class OutputConfig:
    """The output folder and its Parquet files.

    `rows_per_shard` input rows make one part: the unit that is committed and, after a crash, done again.
    `allow_unsafe_store` takes an object store without put-if-absent, where two drivers may overwrite each other's files.
    """

    path: str = "???"
    rows_per_shard: int = 1000
    compression: str = "zstd"
    compression_level: int | None = 3
    include_prompt: bool = True
    allow_unsafe_store: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        require(bool(self.path.strip()), "path", self.path, "a directory or a URI")
        require(self.rows_per_shard >= 1, "rows_per_shard", self.rows_per_shard, "at least 1")
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
