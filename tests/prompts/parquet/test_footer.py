from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from pipeline.errors import InputRefused
from pipeline.prompts.parquet.footer import Footer, open_file, read_footer
from tests.example_counts import examples

Write = Callable[..., Path]
LOCAL = fs.LocalFileSystem()


def footer(path: Path) -> Footer:
    with open_file(LOCAL, str(path), path.name) as handle:
        return read_footer(handle, path.name)


def test_it_agrees_with_pyarrow(write: Write) -> None:
    path = write("a.parquet", {"x": list(range(100)), "y": ["é"] * 100}, row_group_size=7)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    read = footer(path)
    assert read.metadata.equals(pq.read_metadata(path))
    assert read.schema.equals(pq.read_schema(path))
    assert (read.size, read.sha256) == (len(data), hashlib.sha256(data[-length - 8 :]).hexdigest())


def test_a_footer_longer_than_the_first_read(write: Write) -> None:
    path = write("a.parquet", {"x": list(range(2000))}, row_group_size=1)
    assert path.stat().st_size > 2 * 64 * 1024
    assert footer(path).metadata.equals(pq.read_metadata(path))


def test_only_the_end_of_the_file_is_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.parquet", {"x": [str(i) * 100 for i in range(5000)]}, compression="none", use_dictionary=False)
    read = 0

    class Counting:
        def __init__(self, handle: Any) -> None:
            self.size = handle.size
            self.handle = handle

        def read_at(self, count: int, offset: int) -> bytes:
            nonlocal read
            read += count
            return self.handle.read_at(count, offset)

    with open_file(LOCAL, str(path), "a") as handle:
        counting: Any = Counting(handle)
        read_footer(counting, "a")
    assert read <= 64 * 1024 < path.stat().st_size


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: b"", "only 0 bytes"),
        (lambda d: b"text, not Parquet at all", "not a Parquet file"),
        (lambda d: d[: len(d) // 2], "not a Parquet file, or cut short"),
        (lambda d: d[:-4] + b"PARE", "encrypted"),
        (lambda d: d[:-8] + b"\xff\xff\xff\x7fPAR1", "footer is corrupt"),
        (lambda d: d[:-8] + b"\0\0\0\0PAR1", "footer is corrupt"),
        (lambda d: d[:-40] + b"\xff" * 32 + d[-8:], "footer is corrupt"),
    ],
)
def test_fault_11_a_corrupt_footer_is_refused_with_the_name(
    write: Write, spoil: Callable[[bytes], bytes], message: str
) -> None:
    path = write("broken.parquet")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputRefused, match=message) as refused:
        footer(path)
    assert str(refused.value).startswith("broken.parquet: ")
    assert "\n" not in str(refused.value)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fault_11_damage_anywhere_in_the_footer_is_refused_or_harmless(write: Write, data: st.DataObject) -> None:
    path = write("broken.parquet", {"x": [1, 2, 3], "y": ["a", "b", "c"]})
    raw = bytearray(path.read_bytes())
    start = len(raw) - int.from_bytes(raw[-8:-4], "little") - 8
    for place in data.draw(st.lists(st.integers(start, len(raw) - 1), min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        assert footer(path).metadata.num_rows >= 0
    except InputRefused as refused:
        assert "\n" not in str(refused)


def test_permission_denied_and_missing_are_told(tmp_path: Path) -> None:
    class Denied:
        def open_input_file(self, _: str) -> object:
            raise PermissionError("[Errno 13]")

    with pytest.raises(InputRefused, match=r"^x\.parquet: permission denied$"):
        open_file(Denied(), "x", "x.parquet")  # type: ignore[arg-type]
    with pytest.raises(InputRefused, match="no such file"):
        open_file(LOCAL, str(tmp_path / "gone"), "gone")
