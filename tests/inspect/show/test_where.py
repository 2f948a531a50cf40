"""Filters choose the rows that DuckDB's WHERE chooses."""

from __future__ import annotations

import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from pipeline.inspect.show.where import holds, parse
from tests.example_counts import examples

DAY = datetime.date(2026, 1, 2)
TABLE = pa.table({
    "n": pa.array([0, 5, 10, None, 5], pa.int32()),
    "x": pa.array([-0.5, 0.5, None, 2.0, 5.0], pa.float64()),
    "why": pa.array(["stop", "length", "error", None, "stop"]).dictionary_encode(),
    "a text": ["a and b", 'say "x"', "null", None, "5"],
    "yes": pa.array([True, False, None, True, False]),
    "day": pa.array([DAY, None, DAY, DAY, DAY + datetime.timedelta(1)]),
    "list": [[1], None, [], [2], [3]],
})  # fmt: skip
VALUES: dict[str, list[tuple[str, str]]] = {
    "n": [("5", "5"), ("4.5", "4.5"), ("-1", "-1"), ("null", "null")],
    "x": [("0.5", "0.5"), ("2", "2"), ("null", "null")],
    "why": [("stop", "'stop'"), ('"length"', "'length'"), ("null", "null"), ("m", "'m'")],
    '"a text"': [('"a and b"', "'a and b'"), (r'"say \"x\""', "'say \"x\"'"), ('"null"', "'null'"), ("5", "'5'")],
    "yes": [("true", "true"), ("False", "false"), ("NULL", "null")],
    "day": [("2026-01-02", "date '2026-01-02'"), ("null", "null")],
}
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "==")
TERMS = st.sampled_from(
    [(column, operator, value) for column, values in VALUES.items() for operator in OPERATORS for value in values
     if value[1] != "null" or operator in ("=", "!=")]
)  # fmt: skip


def chosen(text: str, table: pa.Table = TABLE) -> list[int]:
    return np.flatnonzero(holds(parse(text, table.schema), table)).tolist()


def sql(column: str, operator: str, value: str) -> str:
    if value == "null":
        return f"{column} is {'not ' if operator == '!=' else ''}null"
    return f"{column} {operator} {value}"


@given(terms=st.lists(TERMS, min_size=1, max_size=3), space=st.sampled_from(["", " "]))
@settings(deadline=None, max_examples=examples(60))
def test_as_sql_chooses(terms: list[tuple[str, str, tuple[str, str]]], space: str) -> None:
    text = " and ".join(f"{column}{space}{operator}{space}{mine}" for column, operator, (mine, _) in terms)
    where = " and ".join(sql(column, operator, its) for column, operator, (_, its) in terms)
    with duckdb.connect() as connection:
        connection.register("t", TABLE.append_column("i", pa.array(range(5))))
        expected = [row[0] for row in connection.sql(f"select i from t where {where} order by i").fetchall()]
    assert chosen(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "where=: cannot be read at ''; write COLUMN=VALUE"),
        ("n", "where=n: cannot be read at 'n'"),
        ("n=", "where=n=: cannot be read"),
        ("n=1 or x=2", "where=n=1 or x=2: cannot be read at ' or x=2'"),
        ("n=1 and", "where=n=1 and: cannot be read at ' and'"),
        ("n=1 x=2", "where=n=1 x=2: cannot be read at ' x=2'"),
        ('why="stop', 'where=why="stop: cannot be read'),
        ("__import__('os')=1", "cannot be read"),
        ("m=1", "where: 'm': no such column; there are n, x, why, a text, yes, day"),
        ("whi=1", "where: 'whi': no such column; did you mean 'why'? there are n, x,"),
        ("n=many", "where: n=many: the column is a number, and this value is not"),
        ("yes=1", "where: yes=1: the column is true or false, and this value is not"),
        ("day=tomorrow", "where: day=tomorrow: the column is date32[day], and this value is not"),
        ("list=1", "where: list: is list<"),
        ("n>null", "where: n>null: null is compared with = or != only"),
        ("n\x1b[2J=1", "no such column"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse(text, TABLE.schema)
    line = str(refused.value)
    assert told in line and "\n" not in line and "\x1b" not in line


def test_a_list_may_be_null_and_a_column_that_a_part_lacks_is() -> None:
    assert chosen("list=null") == [1]
    terms = parse("n=5", TABLE.schema)
    assert not holds(terms, TABLE.drop_columns(["n"])).any()
    assert holds(parse("n=null", TABLE.schema), TABLE.drop_columns(["n"])).all()


def test_whole_numbers_beyond_a_column_and_nan(any_value: Any = None) -> None:
    assert chosen("n<99999999999") == [0, 1, 2, 4]
    table = pa.table({"x": [float("nan"), 1.0]})
    assert chosen("x=1", table) == [1]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("half>1", [1, 2]), ("half=1.5", [1]), ("half=null", [3]), ("big>2", [1, 2]), ("big=9223372036854775813", [1]),
        ("big<-1", []), ("big>2.5", [1, 2]), ("big!=1 and half<2", [1]), ("int>1.5", [1, 2]), ("int<9007199254740993", [0, 1]),
    ],
)  # fmt: skip
def test_numbers_of_every_size(text: str, rows: list[int]) -> None:
    table = pa.table(
        {
            "half": pa.array([np.float16(0.5), np.float16(1.5), np.float16(2.5), None], pa.float16()),
            "big": pa.array([1, 2**63 + 5, 3, None], pa.uint64()),
            "int": pa.array([1, 2, 2**53 + 1, None], pa.int64()),
        }
    )
    assert np.flatnonzero(holds(parse(text, table.schema), table)).tolist() == rows
