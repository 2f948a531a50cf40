from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.errors import ConfigurationError, InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files import ids
from pipeline.prompts.files.listing import open_source
from pipeline.prompts.files.own_ids import own_ids

Write = Callable[..., Path]


def check(path: Path, **options: Any) -> None:
    config = SourceConfig(path=str(path), prompt_column="id", **{"id_column": "id", **options})
    if config.id_column == "n":
        config.prompt_column = "p"
    ids.check_ids(open_source(config), config)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputRefused) as refused:
        check(path, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_100_000_different_ids_pass(write: Write) -> None:
    table = pa.table({"id": [f"row-{i}" for i in range(100_000)]})
    check(write("a.parquet", table, row_group_size=30_000))


def test_fault_6_duplicates_are_counted_and_placed(write: Write, tmp_path: Path) -> None:
    write("a.parquet", {"id": ["x", "y", "z", "x"]})
    write("b.parquet", {"id": ["y", "w", "x"]})
    assert refusal(tmp_path) == (
        "source.id_column: 3 rows have an id that an earlier row has; the first (file:row): "
        "'x' at a.parquet:0, a.parquet:3, b.parquet:2; 'y' at a.parquet:1, b.parquet:0"
    )


def test_fault_6_the_number_agrees_with_pandas(write: Write) -> None:
    rng = random.Random(1)
    values = [str(rng.randrange(50_000)) for _ in range(70_000)]
    number = int(pd.Series(values).duplicated().sum())
    assert f" {number} rows have an id" in refusal(write("a.parquet", {"id": values}))


def test_fault_6_integer_ids(write: Write) -> None:
    path = write("a.parquet", {"p": ["a"] * 4, "n": pa.array([2**61 - 1, 0, 5, 0], pa.uint64())})
    assert "1 row has" in refusal(path, id_column="n")
    assert "0 at a.parquet:1, a.parquet:3" in refusal(path, id_column="n")
    check(write("b.parquet", {"p": ["a"] * 2, "n": [2**61 - 1, 0]}), id_column="n")  # equal hashes in Python


def test_fault_6_more_duplicates_than_are_followed(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_FOLLOWED", 10)
    path = write("a.parquet", {"id": [str(i // 2) for i in range(1000)]})
    assert "500 rows have an id that an earlier row has" in refusal(path)


def test_equal_hashes_of_different_ids_are_no_duplicates(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clashing(str):
        def __hash__(self) -> int:
            return len(self)

    stream = ids._stream

    def clashing(*args: Any) -> Any:
        return ((segment, [Clashing(v) for v in values]) for segment, values in stream(*args))

    monkeypatch.setattr(ids, "_stream", clashing)
    monkeypatch.setattr(ids, "_hashes", lambda values: np.array([len(v) for v in values], np.int64))
    monkeypatch.setattr(ids, "hash", len, raising=False)
    check(write("a.parquet", {"id": ["aa", "bb", "c"]}))
    assert "1 row has" in refusal(write("b.parquet", {"id": ["aa", "bb", "aa"]}))


def test_the_limit_leaves_later_rows_out(write: Write) -> None:
    path = write("a.parquet", {"id": ["a", "b", "a", None]})
    check(path, limit=2)
    check(path, limit=0)
    assert "1 row has" in refusal(path, limit=3)


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_null_id_is_refused_with_its_place(write: Write, tmp_path: Path, dictionary: bool) -> None:
    column = pa.array(["c", None])
    first = pa.array(["a", "b"])
    write("a.parquet", {"id": first.dictionary_encode() if dictionary else first})
    write("b.parquet", {"id": column.dictionary_encode() if dictionary else column})
    assert "the id at b.parquet:1 (file:row) is null" in refusal(tmp_path)


def test_fault_3_an_id_that_is_not_utf8_is_refused_with_its_place(write: Write) -> None:
    raw = pa.array([b"a", b"\xff"])
    path = write("a.parquet", {"id": pa.Array.from_buffers(pa.string(), 2, raw.buffers())})
    assert "the id at a.parquet:1 (file:row) is not UTF-8" in refusal(path)


def test_a_partition_cannot_tell_rows_apart(write: Write, tmp_path: Path) -> None:
    write("n=1/a.parquet", {"p": ["a", "b"]})
    assert "'1' at n=1/a.parquet:0, n=1/a.parquet:1" in refusal(tmp_path, id_column="n")


def test_without_an_id_column_nothing_is_read(write: Write) -> None:
    config = SourceConfig(path=str(write("a.parquet")))
    source = open_source(config)
    Path(source.files[0].path).unlink()
    ids.check_ids(source, config)


COMPOSED = {"doc": ["a", "a", "b", "b"], "part": [1, 2, 1, 2], "id": ["x"] * 4}


def test_ids_composed_of_columns(write: Write) -> None:
    template = "{{ doc }}/{{ part }}"
    path = write("a.parquet", COMPOSED)
    check(path, id_column=None, id_template=template)
    ids_of = own_ids(SourceConfig(path="p", id_template=template))
    assert ids_of is not None and ids_of.of(pa.table(COMPOSED)) == ["a/1", "a/2", "b/1", "b/2"]
    assert refusal(path, id_column=None, id_template="{{ doc }}") == (
        "source.id_template: 2 rows have an id that an earlier row has; the first (file:row): "
        "'a' at a.parquet:0, a.parquet:1; 'b' at a.parquet:2, a.parquet:3"
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ doc }}{{ n }}", "source.id_template: the id at a.parquet:1 (file:row) is null"),
        (
            "{% if n %}{{ n }}{% endif %}",
            "source.id_template: the id at a.parquet:0 (file:row) cannot be made: the template",
        ),
        ("{{ day }}", "source.id_template: the id at a.parquet:1 (file:row) cannot be made: column 'day': "),
        ("{{ doc.x.y }}", "source.id_template: the id at a.parquet:0 (file:row) cannot be made: UndefinedError"),
        ("{{ dok }}", "source.id_template: there is no column 'dok'; did you mean 'doc'?"),
    ],
)
def test_an_id_that_cannot_be_composed_is_refused(template: str, words: str, write: Write) -> None:
    days = pa.array([0, 7_000_000], pa.int32()).cast(pa.date32())  # Python's dates end before the second
    path = write("a.parquet", {"doc": ["a", "b"], "n": [0, None], "id": ["x", "y"], "day": days})
    assert refusal(path, id_column=None, id_template=template).startswith(words)


def test_an_id_that_is_the_same_for_all_rows_is_refused(write: Write) -> None:
    path = write("a.parquet", {"doc": ["a", "b"], "id": ["x", "y"]})
    with pytest.raises(
        ConfigurationError, match=r"source\.id_template uses no column, .* write a column as {{ name }}"
    ):
        check(path, id_column=None, id_template="doc")


def test_one_way_to_make_ids() -> None:
    with pytest.raises(ValueError, match="id_column and id_template"):
        SourceConfig(path="p", id_column="a", id_template="{{ a }}")
