"""A source on a store that does not always answer: rows are never taken for damaged because of that."""

from __future__ import annotations

import errno
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.memory import MemoryFile  # type: ignore[import-untyped]

from pipeline.errors import CorruptInput, ExitCode, StoreUnavailable
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.listing import Source, open_source
from pipeline.prompts.files.reader import RowReader
from pipeline.types import Segment

ROWS = 20_000
TEXTS = [random.Random(i).randbytes(60).hex() for i in range(ROWS)]


class Trouble:
    """Counts the reads of files on the store, and fails those that are chosen."""

    def __init__(self) -> None:
        self.reads = 0
        self.fails: Callable[[int], bool] = lambda read: False

    def read(self, file: io.BytesIO, *arguments: Any) -> bytes:
        self.reads += 1
        if self.fails(self.reads):
            raise OSError("the store does not answer")
        return io.BytesIO.read(file, *arguments)


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    made = Trouble()
    monkeypatch.setattr(MemoryFile, "read", lambda *arguments: made.read(*arguments), raising=False)
    return made


@pytest.fixture
def put(write: Callable[..., Path]) -> Iterator[Callable[..., Source]]:
    """Put a file of `TEXTS` on the store, its bytes changed as asked, and open it as a source."""
    store = fsspec.filesystem("memory")

    def put(change: Callable[[bytearray], None] = lambda content: None) -> Source:
        path = write("a.parquet", {"prompt": TEXTS}, use_dictionary=False, compression="none", write_page_checksum=True)
        content = bytearray(path.read_bytes())
        change(content)
        store.pipe("/inputs/a.parquet", bytes(content))
        return open_source(SourceConfig(path="fsspec+memory://inputs/a.parquet"))

    yield put
    store.rm("/inputs", recursive=True)


def prompts(source: Source, *, skip: bool) -> list[Any]:
    reader = RowReader(source.filesystem, source.files, ["prompt"], source.schema, verify=True)
    found: list[Any] = []
    for start in range(0, ROWS, 5000):
        segments = [Segment(0, start, start + 5000)]
        if not skip:
            found += reader.read(segments).column("prompt").to_pylist()
            continue
        table, gaps = reader.read_with_gaps(segments)
        found += table.column("prompt").to_pylist()
        assert [row for row in range(5000) if found[start + row] is None] == gaps
    return found


@pytest.mark.parametrize("skip", [False, True])
def test_a_read_that_fails_is_no_damage(skip: bool, put: Callable[..., Source], trouble: Trouble) -> None:
    source = put()
    trouble.reads = 0
    assert prompts(source, skip=skip) == TEXTS
    outcomes = set()
    for failing in range(1, trouble.reads + 1):
        trouble.reads, trouble.fails = 0, failing.__eq__
        try:
            assert prompts(source, skip=skip) == TEXTS
            outcomes.add("read again")
        except StoreUnavailable as error:
            assert error.exit_code == ExitCode.STOPPED and "a.parquet" in str(error) and "does not answer" in str(error)
            outcomes.add("resumable")
        trouble.reads, trouble.fails = 0, failing.__le__
        with pytest.raises(StoreUnavailable, match=r"a\.parquet.*the store does not answer"):
            prompts(source, skip=skip)
    assert outcomes == {"read again", "resumable"}


def test_damage_stays_damage(put: Callable[..., Source]) -> None:
    def change(content: bytearray) -> None:
        content[content.index(TEXTS[12_345].encode())] ^= 1

    source = put(change)
    with pytest.raises(CorruptInput, match=r"^a\.parquet: row group 0 cannot be decoded: "):
        prompts(source, skip=False)
    found = prompts(source, skip=True)
    first = found.index(None)
    assert 0 < first <= 12_345 and found == TEXTS[:first] + [None] * (ROWS - first)


def test_a_local_disk_that_does_not_answer_is_no_damage(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(SourceConfig(path=str(write("a.parquet", {"prompt": ["x"]}))))
    reader = RowReader(source.filesystem, source.files, ["prompt"], source.schema, verify=True)

    def stale(*_: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.prompts.files.cursor.scan", stale)
        with pytest.raises(StoreUnavailable, match=r"a\.parquet: row group 0 cannot be read: .*Stale file handle"):
            reader.read_with_gaps([Segment(0, 0, 1)])
    assert reader.read([Segment(0, 0, 1)]).column("prompt").to_pylist() == ["x"]
