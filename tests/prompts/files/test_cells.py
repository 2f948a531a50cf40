from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from pipeline.prompts.files.cells import cells
from pipeline.types import ErrorCode, RowError

RAW = pa.array([b"ok", b"\xff\xfe", None, "é".encode()], pa.binary())
BAD = pa.Array.from_buffers(pa.string(), 4, RAW.buffers())
COLUMNS = {
    "string": BAD,
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3], pa.int8()), BAD),
    "sliced": pa.concat_arrays([BAD, BAD])[4:],
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_fault_3_only_the_cell_that_is_not_utf8_is_an_error(kind: str) -> None:
    values = cells(pa.chunked_array([COLUMNS[kind]]), "p", ErrorCode.BAD_SAMPLING)
    error = values[1]
    assert isinstance(error, RowError)
    assert error.code == ErrorCode.NOT_UTF8
    assert error.message == "column 'p': invalid start byte at byte 0"
    assert [values[0], *values[2:]] == ["ok", None, "é"]


def test_fault_3_invalid_text_inside_a_struct() -> None:
    column = pa.chunked_array([pa.StructArray.from_arrays([BAD], names=["a"])])
    values = cells(column, "s", ErrorCode.BAD_SAMPLING)
    assert [isinstance(v, RowError) for v in values] == [False, True, False, False]


def test_a_date_beyond_python_is_an_error_of_its_row() -> None:
    column = pa.chunked_array([pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("us"))])
    values = cells(column, "t", ErrorCode.BAD_TEMPLATE_ROW)
    assert values[0].year == 1970
    assert values[1].code == ErrorCode.BAD_TEMPLATE_ROW


MOMENTS: dict[str, Any] = {
    "timestamp": pa.array([3_000, 3_001], pa.timestamp("ns")),
    "with a time zone": pa.array([3_000, 3_001], pa.timestamp("ns", "UTC")),
    "duration": pa.array([3_000, 3_001], pa.duration("ns")),
    "time": pa.array([3_000, 3_001], pa.time64("ns")),
}
MICROSECONDS: dict[str, Any] = {
    "timestamp": pa.timestamp("us"), "with a time zone": pa.timestamp("us", "UTC"), "duration": pa.duration("us"),
    "time": pa.time64("us"),
}  # fmt: skip


def nested(column: Any, within: str) -> Any:
    offsets: Any = pa.array([0, 1, 2], pa.int32())
    if within == "struct":
        return pa.StructArray.from_arrays([column], names=["a"])
    if within == "list":
        return pa.ListArray.from_arrays(offsets, column)
    return pa.MapArray.from_arrays(offsets, pa.array(["a", "b"]), column) if within == "map" else column


@pytest.mark.parametrize("within", ["", "struct", "list", "map"])
@pytest.mark.parametrize("kind", MOMENTS)
def test_nanoseconds_are_python_s_own_values_whether_or_not_pandas_is_there(kind: str, within: str) -> None:
    pytest.importorskip("pandas")  # where Arrow finds it, it uses its classes
    plain = MOMENTS[kind].slice(0, 1).cast(MICROSECONDS[kind])[0].as_py()
    value, error = cells(pa.chunked_array([nested(MOMENTS[kind], within)]), "t", ErrorCode.BAD_TEMPLATE_ROW)
    found = {"struct": "a", "list": 0, "map": 0}.get(within)
    value = value if found is None else value[found]
    value = value[1] if within == "map" else value
    assert value == plain and type(value) is type(plain)
    assert type(plain).__module__ == "datetime"
    assert error.code == ErrorCode.BAD_TEMPLATE_ROW and "would lose data" in error.message


@pytest.mark.parametrize("within", ["", "struct", "list", "map"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "+01:30", "-11:15", "UTC"])
def test_a_moment_with_a_time_zone_is_one_of_python_whether_or_not_pytz_is_there(
    name: str, unit: Any, within: str
) -> None:
    due = datetime.fromisoformat("2026-10-25T01:30:00+00:00")  # Berlin's clocks have just been put back
    zone = ZoneInfo(name) if name[0] not in "+-" else datetime.fromisoformat(f"2026-01-01T00:00:00{name}").tzinfo
    column = pa.array([due, due], pa.timestamp(unit, name))
    value = cells(pa.chunked_array([nested(column, within)]), "t", ErrorCode.BAD_TEMPLATE_ROW)[0]
    value = value if not within else value["a"] if within == "struct" else value[0]
    value = value[1] if within == "map" else value
    assert value.astimezone(UTC) == due
    for days in (0, 30, 300):  # with pytz, a moment in summer plus half a year is in summer time, too
        moved, expected = value + timedelta(days=days), due.astimezone(zone) + timedelta(days=days)
        assert (str(moved), moved.tzname(), moved.fold) == (str(expected), expected.tzname(), expected.fold)


def test_what_has_no_time_zone_keeps_none() -> None:
    column = pa.chunked_array([pa.array([0], pa.timestamp("ns")), pa.array([None], pa.timestamp("ns"))])
    assert cells(column, "t", ErrorCode.BAD_TEMPLATE_ROW) == [datetime(1970, 1, 1), None]


@pytest.mark.parametrize("name", ["Mars/Olympus", "America", "../etc/localtime", "/etc/localtime", "zone.tab", "+0130"])
def test_a_moment_in_an_unknown_time_zone_is_an_error_of_its_row(name: str) -> None:
    column = pa.chunked_array([pa.array([0, None], pa.timestamp("us", name))])
    error, missing = cells(column, "t", ErrorCode.BAD_TEMPLATE_ROW)
    assert (error.code, missing) == (ErrorCode.BAD_TEMPLATE_ROW, None)
    assert error.message == f"column 't': unknown time zone '{name}'"


def test_a_local_time_beyond_python_is_an_error_of_its_row() -> None:
    first = int(datetime(1, 1, 1, 3, tzinfo=UTC).timestamp())
    values = cells(
        pa.chunked_array([pa.array([first, 0], pa.timestamp("s", "America/New_York"))]), "t", ErrorCode.BAD_SAMPLING
    )
    assert values[0].code == ErrorCode.BAD_SAMPLING
    assert values[1] == datetime(1970, 1, 1, tzinfo=UTC)
