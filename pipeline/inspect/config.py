"""The options of the jobs that read outputs. Imports no Arrow, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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

    output: InspectedOutput = field(default_factory=InspectedOutput, metadata={"help": "where generations went"})
    replay: int = field(
        default=0, metadata={"help": "rows that are generated again on this machine and compared bit for bit"}
    )

    def __post_init__(self) -> None:
        """Check the field that belongs to no section."""
        require(self.replay >= 0, "replay", self.replay, "0 (none) or a number of rows")


@dataclass(kw_only=True)
class ReportConfig:
    """All options of `report`."""

    output: InspectedOutput = field(default_factory=InspectedOutput, metadata={"help": "where generations went"})


@dataclass(kw_only=True)
class DiffConfig:
    """All options of `diff`. `a` and `b` are two outputs; `json` and `html` are files that are written or replaced."""

    a: str = field(default="???", metadata={"help": "the folder of an output"})
    b: str = field(default="???", metadata={"help": "the folder of the output that it is compared with"})
    json: str | None = field(default=None, metadata={"help": "a file for everything that was found, as JSON"})
    html: str | None = field(
        default=None, metadata={"help": "a file for a page that shows differing rows side by side"}
    )

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("a", "b"):
            require(bool(getattr(self, name).strip()), name, getattr(self, name), "a directory or a URI")
        for name in ("json", "html"):
            file = getattr(self, name)
            require(file is None or bool(file.strip()), name, file, "a file, which is written or replaced")
            folder = Path(file or ".").expanduser().absolute().parent
            require(folder.is_dir(), name, file, f"a file in an existing folder; {folder} is none")
            require(not Path(file or "").expanduser().is_dir() or file is None, name, file, "a file; this is a folder")


@dataclass(kw_only=True)
class ShowConfig:
    """All options of `show`."""

    output: InspectedOutput = field(default_factory=InspectedOutput, metadata={"help": "where generations went"})
    row_id: str | None = field(default=None, metadata={"help": "the id of a row; null: rows of any id"})
    where: str | None = field(
        default=None,
        metadata={"help": "which rows: COLUMN=VALUE with = != < <= > or >=, more of them joined by and"},
    )
    limit: int = field(default=10, metadata={"help": "most rows to show"})
    tokens: bool = field(
        default=False, metadata={"help": "colour each token by its rank among all that could have come"}
    )

    def __post_init__(self) -> None:
        """Check the fields that belong to no section."""
        require(self.limit >= 1, "limit", self.limit, "a number of rows from 1")
        require(self.where is None or bool(self.where.strip()), "where", self.where, "such as finish_reason=error")
