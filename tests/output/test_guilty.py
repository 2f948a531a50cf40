"""Rows that cannot be written become errors, and all others are as in a part that was written without them."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StorageFull
from pipeline.output.guilty import MOST_GUILTY, Content, written
from pipeline.output.table import build_table
from pipeline.types import ErrorCode
from tests.example_counts import examples
from tests.output.made_output import FULL, KEPT, row, shard

Write = Callable[[Content], pa.Table]


def table(content: Content) -> pa.Table:
    return build_table(FULL, content.rows, content.completions, content.kept)


def refusing(*, text: str = "", prompts: frozenset[str] = frozenset(), topics: frozenset[str] = frozenset()) -> Write:
    """A writer that cannot hold some generated text, prompts or kept values."""

    def write(content: Content) -> pa.Table:
        made = table(content)
        found = [
            *made.column("text").to_pylist(),
            *made.column("prompt").to_pylist(),
            *made.column("topic").to_pylist(),
        ]
        for value in found:
            if value and (value == text or value in prompts or value in topics):
                raise pa.ArrowInvalid(f"cannot hold {value!r}\nand more")
        return made

    return write


def content(count: int = 12) -> Content:
    return Content(*shard(count))


@settings(max_examples=examples(40))
@given(st.sets(st.sampled_from([1, 2, 4, 5, 7, 8, 10, 11]), max_size=4), st.sets(st.integers(0, 11), max_size=4))
def test_all_other_rows_are_as_ever(topics: set[int], prompts: set[int]) -> None:
    whole = content()
    bad = {"topics": frozenset(f"t{i}" for i in topics), "prompts": frozenset(f"prompt {i}" for i in prompts)}
    made, expected = written(whole, refusing(**bad)), table(whole)  # type: ignore[arg-type]
    good = pa.array(
        [int(r["row_id"].split("-")[1]) not in topics | prompts for r in expected.select(["row_id"]).to_pylist()]
    )
    assert made.schema == expected.schema and made.column("row_id").equals(expected.column("row_id"))
    assert made.filter(good).combine_chunks().equals(expected.filter(good).combine_chunks())
    for one in made.filter(pa.compute.invert(good)).to_pylist():
        assert (one["error_code"], one["finish_reason"], one["text"]) == ("WORKER_CRASH", "error", None)
        assert one["error_message"].startswith("writing this row raised ArrowInvalid: cannot hold '")
        number = int(one["row_id"].split("-")[1])
        assert one["prompt"] == (None if number in prompts else f"prompt {number}")


def test_an_error_keeps_what_can_be_written() -> None:
    whole = content()
    made = written(whole, refusing(text=whole.completions[3, 0].text or ""))
    before, after = (t.select(KEPT.names).to_pylist() for t in (table(whole), made))
    assert before == after, "only the text is at fault, and only that is lost"
    only = written(whole, refusing(topics=frozenset({"t7"}))).filter(pa.compute.field("row_id") == "row-7").to_pylist()
    assert [(r["topic"], r["tags"], r["prompt"]) for r in only] == [(None, None, "prompt 7")] * 2


def test_without_kept_columns() -> None:
    rows, done, _ = shard(9)
    whole = Content(rows, done, pa.table({"": pa.nulls(9)}).select([]))
    schema = pa.schema([f for f in FULL if f.name not in KEPT.names])

    def write(part: Content) -> pa.Table:
        if any(r.row_id == "row-5" and r.error is None for r in part.rows):
            raise ValueError("no")
        return build_table(schema, part.rows, part.completions, part.kept)

    assert written(whole, write).filter(pa.compute.field("error_code") == ErrorCode.WORKER_CRASH.value).num_rows == 2


@pytest.mark.parametrize("error", [StorageFull("full"), MemoryError("no memory")])
def test_a_full_disk_is_no_rows_trouble(error: Exception) -> None:
    calls = []

    def write(part: Content) -> None:
        calls.append(part)
        raise error

    with pytest.raises(type(error)):
        written(content(), write)
    assert len(calls) == 1


def test_what_fails_without_any_row_is_raised() -> None:
    def write(part: Content) -> None:
        raise ValueError("no compression of that name")

    with pytest.raises(ValueError, match="no compression"):
        written(content(), write)


def test_what_fails_for_each_of_many_rows_is_raised() -> None:
    def write(part: Content) -> int:
        if any(r.error is None or r.error.code is not ErrorCode.WORKER_CRASH for r in part.rows):
            raise ValueError("a defect")
        return len(part.rows)

    def plain(count: int) -> Content:
        return Content([row(i) for i in range(count)], {}, pa.table({"topic": [None] * count}))

    assert written(plain(MOST_GUILTY), write) == MOST_GUILTY
    with pytest.raises(ValueError, match="a defect"):
        written(plain(MOST_GUILTY + 1), write)
