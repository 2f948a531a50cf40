"""The options of `verify`. Imports no Arrow, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.types import require


@dataclass(kw_only=True)
class InspectedOutput:
    """The output folder that is read."""

    path: str = field(default="???", metadata={"help": "the folder of the output"})

    def __post_init__(self) -> None:
        """Check the field."""
        require(bool(self.path.strip()), "path", self.path, "a directory or a URI")


@dataclass(kw_only=True)
class VerifyConfig:
    """All options of `verify`. `replay`: number of rows to generate again and compare bit for bit."""

    output: InspectedOutput = field(default_factory=InspectedOutput, metadata={"help": "where generations go"})
    replay: int = field(
        default=0, metadata={"help": "rows that are generated again on this machine and compared bit for bit"}
    )

    def __post_init__(self) -> None:
        """Check the field that belongs to no section."""
        require(self.replay >= 0, "replay", self.replay, "0 (none) or a number of rows")
