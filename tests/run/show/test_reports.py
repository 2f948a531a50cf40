"""Reports, packed and unpacked: a mapping as any other."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.part import part_name
from pipeline.run.show.reports import Reports
from pipeline.types import ShardReport
from tests.run.simulation import plan_of

PLAN = plan_of(7, 4)
COUNT = st.integers(0, 2**63 - 1)
FEW = st.integers(1, 2**32 - 1)


def made(
    shard: int,
    counts: tuple[int, int, int, int],
    errors: dict[str, int],
    sha256: bytes,
    there: bool,
    ends: dict[str, Any],
) -> ShardReport:
    rows, completions, prompt, completion = counts
    return ShardReport(
        shard, part_name(PLAN.plan8, shard, 7), rows, completions, prompt, completion, errors, sha256.hex(),
        already_there=there, **ends,
    )  # fmt: skip


REPORTS = st.lists(
    st.builds(
        made,
        st.integers(0, 6),
        st.tuples(COUNT, COUNT, COUNT, COUNT),
        st.dictionaries(st.sampled_from(["NULL_PROMPT", "TIMEOUT"]), st.integers(1, 9)),
        st.binary(min_size=32, max_size=32),
        st.booleans(),
        st.fixed_dictionaries(
            {
                "finish_reasons": st.dictionaries(st.sampled_from(["length", "stop"]), FEW, min_size=1),
                "lengths": st.fixed_dictionaries({"shortest": FEW, "longest": FEW}),
                "clamped_rows": FEW,
                "cut_off": FEW,
            }
        )
        | st.just({"finish_reasons": {"error": 4}})
        | st.just({}),
    ),
    max_size=20,
)


@given(reports=REPORTS)
def test_gives_back_what_was_added_last(reports: list[ShardReport]) -> None:
    kept, oracle = Reports(PLAN), dict[int, ShardReport]()
    for report in reports:
        kept.add(report)
        oracle[report.shard] = report
    assert dict(kept) == oracle and len(kept) == len(oracle) and list(kept) == sorted(oracle)
    for index in (-1, 0, 3, 7, 10**9):
        assert kept.get(index) == oracle.get(index)
        assert (index in kept) == (index in oracle)
