"""Rows that differ bit for bit; the bytes of an Arrow message per row are the oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inspect.diff.differing import differing

FLOATS = st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf, None])
TEXTS = st.sampled_from(["", "a", "b", "雨", None])
INTS = st.integers(0, 2) | st.none()
TYPES: list[tuple[Any, Any]] = [
    (pa.float32(), FLOATS),
    (pa.float64(), FLOATS),
    (pa.int32(), INTS),
    (pa.bool_(), st.booleans() | st.none()),
    (pa.string(), TEXTS),
    (pa.dictionary(pa.int8(), pa.string()), TEXTS),
    (pa.binary(), st.sampled_from([b"", b"a", None])),
    (pa.list_(pa.float32()), st.lists(FLOATS, max_size=3) | st.none()),
    (pa.large_list(pa.string()), st.lists(TEXTS, max_size=2) | st.none()),
    (pa.list_(pa.list_(pa.int32())), st.lists(st.lists(INTS, max_size=2) | st.none(), max_size=2) | st.none()),
    (pa.list_(pa.float32(), 2), st.lists(FLOATS, min_size=2, max_size=2) | st.none()),
    (pa.struct([("x", pa.float32()), ("y", pa.string())]), st.fixed_dictionaries({"x": FLOATS, "y": TEXTS}) | st.none()),
    (pa.timestamp("us"), st.integers(0, 2) | st.none()),
]  # fmt: skip


def bits(array: Any, row: int) -> bytes:
    value = pa.concat_arrays([array.slice(row, 1)])
    value = value.dictionary_decode() if pa.types.is_dictionary(value.type) else value
    if pa.types.is_fixed_size_list(value.type):  # a null has whatever is behind it
        return repr([None if v is None else np.float32(v).tobytes() for v in value.to_pylist()[0] or ["null"]] ).encode() \
            if value[0].is_valid else b"null"  # fmt: skip
    return bytes(pa.record_batch([value.take(pa.array([0]))], ["v"]).serialize())


@pytest.mark.parametrize(("kind", "values"), TYPES, ids=[str(kind) for kind, _ in TYPES])
@given(data=st.data())
def test_it_finds_the_rows_whose_bits_differ(kind: Any, values: Any, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(values, values), min_size=1, max_size=6))
    skipped = data.draw(st.integers(0, len(pairs) - 1))  # what begins within a buffer
    one, other = (pa.array([pair[i] for pair in pairs], kind).slice(skipped) for i in (0, 1))
    expected = [bits(one, i) != bits(other, i) for i in range(len(one))]
    assert differing(one, other).tolist() == expected


def test_maps_and_types_that_arrow_does_not_compare() -> None:
    kind = pa.map_(pa.string(), pa.int32())
    one = pa.array([[("a", 1)], [("a", 1)], None, []], kind)
    other = pa.array([[("a", 1)], [("a", 2)], None, None], kind)
    assert differing(one, other).tolist() == [False, True, False, True]
    months = pa.array([(1, 2, 3), (1, 2, 3)], pa.month_day_nano_interval())
    others = pa.array([(1, 2, 3), (1, 2, 4)], pa.month_day_nano_interval())
    assert differing(months, others).tolist() == [False, True]
