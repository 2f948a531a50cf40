from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.fingerprint import digest
from pipeline.planning.plan import InputFile, Plan, make_plan
from pipeline.types import Segment


def files(*rows: int) -> list[InputFile]:
    return [InputFile(f"{i}.parquet", f"/in/{i}.parquet", 100 + n, n, f"{i:064x}") for i, n in enumerate(rows)]


def planned(*rows: int, per_shard: int = 10, limit: int | None = None) -> Plan:
    return make_plan(files(*rows), {"seed": 0}, rows_per_shard=per_shard, limit=limit)


@given(
    rows=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    per_shard=st.integers(1, 50),
    limit=st.none() | st.integers(0, 200),
)
def test_shards_take_every_row_once_and_in_order(rows: list[int], per_shard: int, limit: int | None) -> None:
    plan = planned(*rows, per_shard=per_shard, limit=limit)
    shards = [plan.shard(i) for i in range(plan.shard_count)]
    assert [plan.shard_rows(i) for i in range(plan.shard_count)] == [shard.rows for shard in shards]
    taken = [(s.file, row) for shard in shards for s in shard.segments for row in range(s.start, s.stop)]
    all_rows = [(file, row) for file, count in enumerate(rows) for row in range(count)]
    assert taken == all_rows[: len(all_rows) if limit is None else limit]
    assert plan.rows == len(taken)
    assert all(s.start < s.stop for shard in shards for s in shard.segments), "no empty segment"
    assert all(shard.rows == per_shard for shard in shards[:-1])
    assert all((shard.index, shard.count) == (i, len(shards)) for i, shard in enumerate(shards))


def test_a_shard_across_files() -> None:
    assert planned(4, 0, 3, 9, per_shard=6).shard(1).segments == (Segment(2, 2, 3), Segment(3, 0, 5))


def test_an_empty_input_has_one_empty_shard() -> None:
    for plan in (planned(0), planned(0, 0), planned(5, limit=0)):
        assert (plan.rows, plan.shard_count, plan.shard(0).segments) == (0, 1, ())


def test_a_limit_beyond_the_end_is_all() -> None:
    assert planned(3, 4, limit=100).rows == 7
    assert planned(3, 4, limit=5).rows == 5


def test_a_million_shards_are_not_listed() -> None:
    plan = planned(10**12, per_shard=1000)
    assert plan.shard_count == 10**9
    assert plan.shard(10**9 - 1).segments == (Segment(0, 10**12 - 1000, 10**12),)


def test_the_id_stands_for_inputs_and_options_but_not_for_the_layout() -> None:
    plan = planned(3, 4)
    assert plan.plan_id == planned(3, 4, per_shard=3).plan_id
    assert plan.plan_id != planned(3, 5).plan_id
    assert plan.plan_id != make_plan(files(3, 4), {"seed": 1}, rows_per_shard=10).plan_id
    moved = [InputFile(f.name, f"/elsewhere/{f.name}", f.size, f.rows, f.footer_sha256) for f in files(3, 4)]
    assert plan.plan_id == make_plan(moved, {"seed": 0}, rows_per_shard=10).plan_id
    assert len(plan.plan_id) == 64 and plan.plan8 == plan.plan_id[:8]


def test_json_there_and_back() -> None:
    partitioned = InputFile("d=ü/a.parquet", "/in/d=ü/a.parquet", 1, 2, "f" * 64, {"d": "ü"})
    plan = make_plan([partitioned], {"a": {"b": [1, None, "x"]}}, rows_per_shard=1)
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.to_json() == plan.to_json()
    body = json.loads(plan.to_json())
    assert (body["format"], body["shards"], body["rows"]) == (2, 2, 2)


def test_a_plan_of_format_1_is_read_as_it_was() -> None:
    old = {"name": "a", "path": "/a", "size": 5, "rows": 3, "footer_sha256": "ab", "partitions": {}}
    fingerprint = {"input": {"a": {"bytes": 5, "rows": 3, "footer": "ab"}}, "source": {"limit": None}}
    body = {"format": 1, "plan_id": digest(fingerprint), "fingerprint": fingerprint, "files": [old]}
    plan = Plan.from_json(json.dumps({**body, "rows": 3, "rows_per_shard": 2, "shards": 2}).encode())
    assert plan.inputs() == plan.fingerprint["input"]
    assert plan.format == 1 and json.loads(plan.to_json())["format"] == 1


def test_content_decides_the_id_and_where_it_is_unknown_the_store_s_stamp() -> None:
    def plan_id(**known: Any) -> str:
        return make_plan([InputFile("a", "/a", 5, 3, "ab", **known)], {}, rows_per_shard=2).plan_id

    ids = [plan_id(groups=("1", "2")), plan_id(groups=("1", "3")), plan_id(groups=("12",)), plan_id(stamp="etag x")]
    assert len({*ids, plan_id(stamp="etag y")}) == 5
    assert plan_id(groups=("1", "2")) == ids[0]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"no", b'{"format": 3}', b'{"format": 1}', b"\xff"])
def test_what_is_not_a_plan(data: bytes) -> None:
    with pytest.raises(ValueError):
        Plan.from_json(data)
