from __future__ import annotations

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
