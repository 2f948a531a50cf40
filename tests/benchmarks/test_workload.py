from __future__ import annotations

import hashlib
import json

import pytest

from benchmarks.workload import REQUESTS, WORKLOADS, longest, make


def facts(name: str) -> tuple[int, int, int]:
    work = make(name, REQUESTS[name])
    return sum(len(p) for p, _ in work), sum(n for _, n in work), max(n for _, n in work)


def test_uniform() -> None:
    assert REQUESTS["uniform"] == 64
    assert facts("uniform") == (64 * 32, 64 * 64, 64)


def test_mixed() -> None:
    assert REQUESTS["mixed"] == 128
    assert facts("mixed") == (4025, 7865, 256)


@pytest.mark.parametrize(("name", "digest"), [("uniform", "3158b6ef63ea741c"), ("mixed", "7e0895b3a8545af6")])
def test_the_requests_are_those_of_earlier_results(name: str, digest: str) -> None:
    assert hashlib.sha256(json.dumps(make(name, 128)).encode()).hexdigest().startswith(digest)


def test_few_shot_prompts_share_their_header_only() -> None:
    first, second = (prompt for prompt, _ in make("few_shot", 2))
    assert first[:256] == second[:256]
    assert len(first) == len(second) == 272
    assert first[256:] != second[256:]


def test_prefill_is_a_long_prompt_and_its_first_token() -> None:
    assert [(len(prompt), new) for prompt, new in make("prefill", 2)] == [(512, 1)] * 2


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_its_longer_self_cut_short(name: str) -> None:
    assert make(name, 5) == make(name, 9)[:5]
    assert make(name, 5, seed=1) != make(name, 5)


def test_longest() -> None:
    assert longest([([1, 2], 5), ([1, 2, 3], 3)]) == 7


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="workload='best': must be one of uniform, mixed"):
        make("best", 1)
