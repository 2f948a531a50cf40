"""Finished outputs of the demo model, and ways to damage and repair them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.verify import main as verify_main
from tests.small_runs import generate, write

BUSY = re.compile(r"\d\d:\d\d:\d\d INFO (reading|starting)")
"""What is said on a slow machine of what takes long."""
ROWS, SAMPLES, SHARDS = 11, 2, 3


@dataclass(frozen=True)
class Verified:
    """What a run of `verify` printed, and its exit code."""

    code: int
    lines: list[str]

    @property
    def findings(self) -> list[str]:
        """The lines that name a file and a remedy."""
        return [line for line in self.lines if line.startswith(("data/", "_job/"))]

    def about(self, name: str) -> list[str]:
        """The findings about a file."""
        return [line for line in self.findings if line.startswith(f"{name}: ") or line.startswith(f"{name} ")]


@dataclass(frozen=True)
class Output:
    """An output folder, and what it is made of."""

    path: Path
    source: Path
    options: tuple[str, ...] = ()

    def copied(self, path: Path) -> Output:
        shutil.copytree(self.path, path)
        return replace(self, path=path)

    def generate(self) -> int:
        with contextlib.redirect_stderr(io.StringIO()):
            return generate(self.source, self.path, *self.options)

    def verify(self, *more: str) -> Verified:
        printed, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
            code = verify_main([f"output.path={self.path}", *more])
        lines = [*printed.getvalue().splitlines(), *told.getvalue().splitlines()]
        return Verified(code, [line for line in lines if not BUSY.match(line)])

    @property
    def parts(self) -> list[Path]:
        return sorted((self.path / "data").glob("*.parquet"))

    def stamps(self) -> dict[str, tuple[int, int]]:
        """What changes of a file when it is written again."""
        return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in self.parts}

    def name(self, index: int) -> str:
        return f"data/{self.parts[index].name}"

    def table(self) -> pa.Table:
        return pa.concat_tables([pq.read_table(part) for part in self.parts])

    def json(self, name: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.path / "_job" / name).read_text())
        return body

    def edit_json(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        body = self.json(name)
        change(body)
        (self.path / "_job" / name).write_text(json.dumps(body))

    def rewrite(
        self, index: int, change: Callable[[pa.Table], pa.Table] = lambda table: table, *, seal: bool = True,
        footer: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Write a part anew with something changed; `seal` makes the manifest say that this is how it was."""
        path = self.parts[index]
        table = pq.read_table(path)
        metadata = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (footer or {}).items()}}
        pq.write_table(change(table).replace_schema_metadata(metadata), path, write_page_checksum=True)
        if seal:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.edit_json("manifest.json", lambda body: body["parts"][index].update(sha256=digest))

    def environments(self, **facts: Any) -> None:
        """Make every part say that it was made elsewhere."""
        for index, path in enumerate(self.parts):
            there = json.loads(pq.read_schema(path).metadata[b"promptmill.environment"])
            self.rewrite(index, footer={"promptmill.environment": json.dumps({**there, **facts})})


def with_value(column: str, row: int, change: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    """Change one value of a table."""

    def changed(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(column)
        values = table.column(column).to_pylist()
        values[row] = change(values[row])
        return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))

    return changed


def made(folder: Path) -> Output:
    """Eleven rows with ids of their own, two of which are errors; two samples of each, every statistic, three parts."""
    texts = ["The train to", "Lost", None, "Dear Anna, greetings from", "", *[f"A recipe for {i}" for i in range(6)]]
    table = {
        "id": [f"row-{i}" for i in range(ROWS)],
        "prompt": pa.array(texts, pa.string()),
        "topic": [i / 3 for i in range(ROWS)],
    }
    output = Output(folder / "out", write(table, folder / "in.parquet"), (
        "source.id_column=id", "source.keep_columns=[topic]", f"sampling.n={SAMPLES}", "sampling.max_tokens=6",
        "stats=full", "output.rows_per_shard=4",
    ))  # fmt: skip
    assert output.generate() == 0
    return output


def made_numbered(folder: Path) -> Output:
    """Seven rows of two files, whose ids are file and row; each row has samples of its own number; two parts."""
    for name, rows in (("a", range(3)), ("b", range(3, 7))):
        table = {"prompt": [f"A recipe for {i}" for i in rows], "how": [{"n": 1 + i % 3} for i in rows]}
        write(table, folder / "in" / f"{name}.parquet")
    output = Output(folder / "out", folder / "in", (
        "source.sampling_column=how", "sampling.max_tokens=3", "stats=minimal", "output.rows_per_shard=5",
    ))  # fmt: skip
    assert output.generate() == 0
    return output
