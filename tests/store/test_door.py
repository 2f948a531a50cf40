"""The door: any JSON is a value of the form or a ValueError that says where, and never anything else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.record.manifest import Manifest
from pipeline.planning.fingerprint import digest
from pipeline.planning.plan import InputFile, Plan, make_plan
from pipeline.run.shared.suspects import Suspect
from pipeline.store.door import checked, fetch, parse
from pipeline.store.local import LocalStore


@dataclass(frozen=True)
class Inner:
    text: str
    number: float = 0.0


@dataclass(frozen=True)
class Outer:
    count: int
    inner: tuple[Inner, ...]
    more: Mapping[str, int | None] = field(default_factory=dict)
    free: Any = None


GOOD = {"count": 1, "inner": [{"text": "a", "number": 2}], "more": {"x": None, "y": 3}, "free": [{"z": [1]}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_a_value_of_the_form() -> None:
    assert parse(json.dumps(GOOD).encode(), Outer) == Outer(1, (Inner("a", 2),), {"x": None, "y": 3}, [{"z": [1]}])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"count": None}, "count: must be a whole number, not null"),
        ({"count": 16.0}, "count: must be a whole number, not 16.0"),
        ({"count": "16"}, 'count: must be a whole number, not "16"'),
        ({"count": True}, "count: must be a whole number, not true"),
        ({"inner": {}}, "inner: must be a list, not a dict"),
        ({"inner": [1]}, r"inner\[0\]: must be an object, not 1"),
        ({"inner": [{}]}, r"inner\[0\].text: is missing"),
        ({"inner": [{"text": "a", "other": 1}]}, r"inner\[0\].other: no such key"),
        ({"more": {"x": "1"}}, "more.x: must be a whole number"),
        ({"unknown": 1}, "unknown: no such key"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(json.dumps({**GOOD, **change}).encode(), Outer)


@pytest.mark.parametrize("depth", [70, 900, 5_000, 300_000])
@pytest.mark.parametrize("bracket", ["[]", '{"a":}'])
def test_what_is_nested_deeply_is_refused(depth: int, bracket: str) -> None:
    opening, closing = bracket[:-1], bracket[-1]
    text = '{"count": 1, "inner": [], "free": ' + opening * depth + "1" + closing * depth + "}"
    with pytest.raises(ValueError, match="nested"):
        parse(text.encode(), Outer)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"NaN", b'{"count": Infinity}', b"[" * 10, b"9" * 10_000])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse(data, Outer)


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("_job/x", b"12345")
    assert fetch(store, "_job/x", 5) == b"12345"
    with pytest.raises(ValueError, match="it has 5 bytes, and can have 4 at most"):
        fetch(store, "_job/x", 4)
    (tmp_path / "_job" / "folder").mkdir()
    with pytest.raises(FileNotFoundError):
        fetch(store, "_job/folder")


@given(JSON)
def test_any_json_is_of_the_form_or_refused(value: Any) -> None:
    try:
        found = parse(json.dumps(value).encode(), Outer)
    except ValueError:
        return
    assert checked(found, Outer, "") is found


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(p for key, v in inner for p in _places(v, (*place, key)))]


def _changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = _changed(copy[place[0]], place[1:], new)
    return copy


FILES = [
    InputFile(f"{name}.parquet", f"/{name}.parquet", 10 + rows, rows, name * 64)
    for name, rows in zip("abc", (3, 0, 6), strict=True)
]
PLAN = make_plan(FILES, {"sampling": {"n": 2}, "source": {"limit": None}}, rows_per_shard=4)
MANIFEST = {
    "plan_id": "0" * 64, "promptmill_version": "1", "timings": {"wall_seconds": 1.5, "tokens_per_second": None}, 
    "environment": {"a": [1]},
    "totals": {"rows": 1, "completions": 1, "prompt_tokens": 1, "completion_tokens": 1, "errors": {"TIMEOUT": 1}},
    "parts": [{"file": "data/x", "rows": 1, "sha256": "0" * 64}],
}  # fmt: skip
SUSPECT = {
    "rows": 4,
    "deaths": 1,
    "unexplained": 0,
    "open": [[0, 2], [2, 4]],
    "guilty": {"3": "TIMEOUT"},
    "searches": 1,
}


@given(st.data())
def test_a_plan_that_was_edited_anywhere_is_refused(data: st.DataObject) -> None:
    body = json.loads(PLAN.to_json())
    place = data.draw(st.sampled_from([p for p in _places(body) if p]))
    edited = _changed(body, place, data.draw(JSON | st.just(16.0) | st.integers(0, 20)))
    try:
        found = Plan.from_json(json.dumps(edited).encode())
    except ValueError:
        return
    assert found == PLAN and json.dumps(edited, sort_keys=True) in (
        json.dumps(body, sort_keys=True), json.dumps({**body, "sha256": ""}, sort_keys=True),
    )  # fmt: skip


@pytest.mark.parametrize("rows_per_shard", [0, -1, "16", None, 16.0, True, [4]])
def test_a_plan_of_an_earlier_version_is_checked_too(rows_per_shard: Any) -> None:
    known = {**PLAN.fingerprint, "input": {f.name: f.identity(1) for f in PLAN.files}}
    earlier = replace(PLAN, format=1, fingerprint=known, plan_id=digest(known))
    body = json.loads(earlier.to_json())
    del body["sha256"]
    assert Plan.from_json(json.dumps(body).encode()) == earlier
    with pytest.raises(ValueError, match="rows_per_shard"):
        Plan.from_json(json.dumps({**body, "rows_per_shard": rows_per_shard}).encode())


@pytest.mark.parametrize("keep", [[1, 0, 2], [0, 2], [0, 1, 2, 2]])
def test_files_in_another_order_or_number_are_refused(keep: list[int]) -> None:
    body = json.loads(PLAN.to_json())
    edited = {**body, "files": [body["files"][i] for i in keep]}
    with pytest.raises(ValueError, match=r"it was changed|are not those of its fingerprint"):
        Plan.from_json(json.dumps(edited).encode())


@given(st.data())
@pytest.mark.parametrize(
    ("read", "body"), [(Manifest.from_json, MANIFEST), (lambda data: Suspect.from_json(0, data), SUSPECT)]
)
def test_another_value_anywhere_is_read_or_refused(read: Any, body: dict[str, Any], data: st.DataObject) -> None:
    assert read(json.dumps(body).encode())
    edited = _changed(body, data.draw(st.sampled_from(_places(body))), data.draw(JSON))
    with contextlib.suppress(ValueError):
        read(json.dumps(edited).encode())


@pytest.mark.parametrize("sha256", [None, "", 0, "x" * 64, "0" * 63])
def test_a_manifest_without_a_digest_of_a_part(sha256: Any) -> None:
    with pytest.raises(ValueError, match="sha256"):
        Manifest.from_json(
            json.dumps({**MANIFEST, "parts": [{"file": "data/x", "rows": 1, "sha256": sha256}]}).encode()
        )
