"""What `import` can be told. Knows no Arrow, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.types import require

FORMATS = ("auto", "jsonl", "json", "csv", "tsv", "text", "files", "openai_batch", "hub")
JSON_FORMATS = ("auto", "jsonl", "json", "openai_batch")
"""Those that have fields of JSON, which `json_columns` may keep as text; `auto` may be one."""
ON_BAD_LINE = ("fail", "skip")


@dataclass(kw_only=True)
class ImportSource:
    """The files, or the dataset of the hub, that are read."""

    path: Any = field(
        default="???",
        metadata={"help": "a file, a folder, a glob, a URI, a list of them, or a dataset of the hub (hf://datasets/…)"},
    )
    encoding: str | None = field(
        default=None, metadata={"help": "such as cp1252; null: UTF-8, or what the file's byte order mark says"}
    )
    delimiter: str | None = field(
        default=None, metadata={"help": "between the fields of CSV; null: a tab in .tsv, else what the header has"}
    )
    config: str | None = field(default=None, metadata={"help": "the configuration of a dataset of the hub"})
    split: str = field(default="train", metadata={"help": "the split of a dataset of the hub"})
    revision: str | None = field(default=None, metadata={"help": "a branch, tag or commit of a dataset of the hub"})

    @property
    def paths(self) -> list[str]:
        """`path` as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)

    def __post_init__(self) -> None:
        """Check every field."""
        good = isinstance(self.path, str) or (isinstance(self.path, list) and bool(self.path))
        good = good and all(isinstance(path, str) and path.strip() for path in self.paths)
        require(good, "path", self.path, "a file, a folder, a glob or a URI, or a list of them: [a.jsonl,b.jsonl]")
        require(
            self.delimiter is None or (len(self.delimiter) == 1 and self.delimiter not in '"\r\n'),
            "delimiter", self.delimiter, "null or one character",
        )  # fmt: skip
        require(bool(self.split.strip()), "split", self.split, "the name of a split, such as train")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except (LookupError, UnicodeError):
                require(
                    False, "encoding", self.encoding, "null or an encoding that Python knows for text, such as cp1252"
                )


@dataclass(kw_only=True)
class ImportOutput:
    """The Parquet file that is written."""

    path: str = field(
        default="???", metadata={"help": "the Parquet file to write, or a folder for it; it must not exist yet"}
    )

    def __post_init__(self) -> None:
        """Check the field."""
        require("://" not in self.path, "path", self.path, "a local Parquet file, such as prompts.parquet")
        require(bool(self.path.strip()) and "\0" not in self.path, "path", self.path, "a Parquet file or a folder")

    @property
    def is_folder(self) -> bool:
        """Whether `path` is a folder for the file, which has the name of the first input."""
        return self.path.endswith("/") or Path(self.path).expanduser().is_dir()


@dataclass(kw_only=True)
class ImportConfig:
    """Everything `import` can be told."""

    source: ImportSource = field(default_factory=ImportSource, metadata={"help": "what is read"})
    output: ImportOutput = field(default_factory=ImportOutput, metadata={"help": "the Parquet file that is made"})
    format: str = field(
        default="auto", metadata={"help": ", ".join(FORMATS) + "; auto: by name and first bytes"}
    )  # fmt: skip
    columns: list[str] = field(default_factory=list, metadata={"help": "only these columns; none: all of them"})
    json_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "columns kept as JSON text, such as [metadata]: for values of several types"},
    )
    on_bad_line: str = field(
        default="fail", metadata={"help": "fail, or skip: leave lines out that are damaged, and count them"}
    )
    row_group_rows: int | None = field(
        default=None, metadata={"help": "rows in a row group; null: as many as are 32 MiB, 100,000 at most"}
    )
    limit: int | None = field(default=None, metadata={"help": "take only the first rows"})

    def __post_init__(self) -> None:
        """Check the fields that belong to no section."""
        require(self.format in FORMATS, "format", self.format, "one of " + ", ".join(FORMATS))
        require(self.on_bad_line in ON_BAD_LINE, "on_bad_line", self.on_bad_line, "one of " + ", ".join(ON_BAD_LINE))
        rows, limit = self.row_group_rows, self.limit
        require(rows is None or 1 <= rows <= 1_000_000, "row_group_rows", rows, "null or from 1 to 1000000")
        require(limit is None or limit >= 1, "limit", limit, "null (all rows) or a whole number from 1")
        for name in ("columns", "json_columns"):
            require(
                len(set(getattr(self, name))) == len(getattr(self, name)),
                name,
                getattr(self, name),
                "without repetition",
            )
        require(
            not self.json_columns or self.format in JSON_FORMATS,
            "json_columns", self.json_columns, f"empty with format={self.format}: only JSON has values of several types",
        )  # fmt: skip
