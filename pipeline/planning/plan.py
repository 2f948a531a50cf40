"""The plan of a run: its inputs, its shards, and the id that stands for every byte of its output."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.planning.fingerprint import digest
from pipeline.store.door import checked, parse
from pipeline.types import Segment, Shard

FORMAT = 2
"""2: input files are identified by content. 1: by size and footer; such outputs can be read, but not resumed."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file, as its footer describes it.

    Attributes:
        name: Path relative to the source's root with `/` between folders; default row ids use it.
        path: Its path in its file system.
        size: Bytes.
        rows: Number of rows.
        footer_sha256: SHA-256 of the Parquet footer, in hex.
        partitions: Hive partition keys and values found in the path.
        groups: Per row group, the digest of its pages of the columns in use, in hex.
        stamp: The store's version of the file, used where reading all pages would cost too much; `groups` is empty then.
    """

    name: str
    path: str
    size: int
    rows: int
    footer_sha256: str
    partitions: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    stamp: str = ""

    def identity(self, format: int = FORMAT) -> dict[str, Any]:
        """Return what identifies the file's content in the fingerprint of a plan of `format`."""
        known = {"bytes": self.size, "rows": self.rows, "footer": self.footer_sha256}
        if format == 1:
            return known
        content = {"stamp": self.stamp} if self.stamp else {"content": digest({"groups": self.groups})}
        return {**known, **content}


@dataclass(frozen=True)
class Plan:
    """The plan of a run. `fingerprint` holds everything that decides the output's bytes; `plan_id` is its SHA-256.

    `rows` counts the rows in use (after the source's `limit`); shard i is rows i·R to (i+1)·R of all files'
    rows in the order of `files`. Shards are computed on demand: a plan of a million shards takes no memory for them.
    """

    plan_id: str
    fingerprint: Mapping[str, Any]
    files: tuple[InputFile, ...]
    rows: int
    rows_per_shard: int
    format: int = FORMAT

    @property
    def plan8(self) -> str:
        """The first eight digits of the id, which are in the parts' names."""
        return self.plan_id[:8]

    def inputs(self) -> dict[str, Any]:
        """The fingerprint's entry for the files."""
        return {f.name: f.identity(self.format) for f in self.files}

    @property
    def shard_count(self) -> int:
        """Number of shards; an empty input has one, so that the output is a valid empty dataset."""
        return max(1, -(-self.rows // self.rows_per_shard))

    @functools.cached_property
    def _ends(self) -> list[int]:
        """Cumulative row counts of the files."""
        return list(itertools.accumulate(f.rows for f in self.files))

    def shard_rows(self, index: int) -> int:
        """Return the number of rows of shard `index`; faster than through `shard`."""
        return min(self.rows_per_shard, self.rows - index * self.rows_per_shard)

    def shard(self, index: int) -> Shard:
        """Return shard `index`, 0 ≤ index < `shard_count`, with its row range in each file it touches."""
        start, stop = index * self.rows_per_shard, min((index + 1) * self.rows_per_shard, self.rows)
        segments = []
        number = bisect.bisect_right(self._ends, start)
        while start < stop:
            begin = self._ends[number] - self.files[number].rows
            upto = min(stop, self._ends[number])
            if upto > start:
                segments.append(Segment(number, start - begin, upto - begin))
            start, number = upto, number + 1
        return Shard(index, self.shard_count, tuple(segments))

    def located(self, files: Sequence[InputFile]) -> Plan:
        """Return the same plan with the paths of `files`, which have the same names and content but may have moved."""
        paths = {file.name: file.path for file in files}
        return replace(self, files=tuple(replace(file, path=paths[file.name]) for file in self.files))

    def to_json(self) -> bytes:
        """Return the content of `_job/plan.json`; the same plan gives the same bytes."""
        body = {
            "format": self.format,
            "plan_id": self.plan_id,
            "rows": self.rows,
            "rows_per_shard": self.rows_per_shard,
            "shards": self.shard_count,
            "fingerprint": self.fingerprint,
            "files": [asdict(f) for f in self.files],
        }
        body = {"sha256": digest(body), **body}
        return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """Read `_job/plan.json`.

        Raises:
            ValueError: If it is not a plan, has a format that this version does not know, or was changed.
        """
        found: Mapping[str, Any] = parse(data, Mapping)  # type: ignore[type-abstract]
        if found.get("format") not in (1, FORMAT):
            raise ValueError(f"plan format {found.get('format')}; this version reads formats up to {FORMAT}")
        body: _Body = checked(found, _Body, "")
        plan = cls(body.plan_id, body.fingerprint, body.files, body.rows, body.rows_per_shard, body.format)
        if fault := plan.fault(body.shards):
            raise ValueError(fault)
        if body.sha256 is None and body.format > 1:
            raise ValueError("sha256: is missing")
        if body.sha256 is not None and body.sha256 != digest({k: v for k, v in found.items() if k != "sha256"}):
            raise ValueError("it was changed after it had been written: its sha256 is not that of its content")
        return plan

    def fault(self, shards: int) -> str | None:
        """Return what is inconsistent in the plan, or None.

        Args:
            shards: How many shards it says that it has.
        """
        if digest(self.fingerprint) != self.plan_id:
            return "its plan_id is not that of its content"
        if self.rows_per_shard < 1:
            return f"rows_per_shard: must be at least 1, not {self.rows_per_shard}"
        if any(f.rows < 0 or f.size < 0 for f in self.files):
            return "files: a number of rows or bytes is below 0"
        if len(self.inputs()) != len(self.files) or self.inputs() != self.fingerprint.get("input"):
            return "its files are not those of its fingerprint"
        source = self.fingerprint.get("source")
        limit = source.get("limit") if isinstance(source, Mapping) else None
        total = sum(f.rows for f in self.files)
        if self.rows != (total if limit is None else min(limit, total)):
            return f"it has {self.rows} rows, its files {total}"
        return None if shards == self.shard_count else f"it has {shards} shards, not {self.shard_count}"


@dataclass(frozen=True)
class _Body:
    """The form of `_job/plan.json`. `sha256` covers all other fields; a plan of format 1 has none."""

    format: int
    plan_id: str
    rows: int
    rows_per_shard: int
    shards: int
    fingerprint: Mapping[str, Any]
    files: tuple[InputFile, ...]
    sha256: str | None = None


def make_plan(
    files: Sequence[InputFile], options: Mapping[str, Any], *, rows_per_shard: int, limit: int | None = None
) -> Plan:
    """Plan the rows of `files` under `options`.

    Args:
        files: The inputs, in the order in which they are read.
        options: Everything else that decides the output's bytes (model content, sampling, statistics, source options).
        rows_per_shard: Input rows in a part. It affects the files, not the rows, so it is not part of the id.
        limit: Use only this many rows; None: all.
    """
    total = sum(f.rows for f in files)
    rows = total if limit is None else min(limit, total)
    fingerprint = {**options, "input": {f.name: f.identity() for f in files}}
    return Plan(digest(fingerprint), fingerprint, tuple(files), rows, rows_per_shard)
