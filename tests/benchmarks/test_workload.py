from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from benchmarks.parts.workload import REQUESTS, TURNS, WORKLOADS, answers, distinct_tokens, longest, make

DEMO = Path(__file__).parents[2] / "examples" / "demo-model"


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
    assert first[:600] == second[:600]
    assert len(first) == len(second) == 616
    assert first[600:] != second[600:]


def test_samples_are_eight_completions_of_a_prompt() -> None:
    assert [(len(prompt), new) for prompt, new in make("samples", 2)] == [(128, 64)] * 2
    assert {name: answers(name).samples for name in WORKLOADS if answers(name).samples != 1} == {"samples": 8}


def test_classify_shares_its_instruction_and_has_around_two_hundred_tokens() -> None:
    work = make("classify", REQUESTS["classify"])
    assert len({tuple(prompt[:60]) for prompt, _ in work}) == 1 < len({tuple(prompt[:61]) for prompt, _ in work})
    assert 180 < sum(len(prompt) for prompt, _ in work) / len(work) < 230


def test_however_a_label_is_spelled_it_has_the_tokens_that_are_asked_for() -> None:
    """A byte is a token of any byte-level vocabulary; none puts a letter and a digit together."""
    vocabulary = json.loads((DEMO / "tokenizer.json").read_text())["model"]["vocab"]
    labels = answers("classify").choice
    assert len(set(labels)) == 6
    assert not [token for token in vocabulary if token in labels]
    assert {new for _, new in make("classify", 9)} == {len(label) for label in labels} == {2}


def test_a_turn_of_a_conversation_begins_with_all_that_was_said_before() -> None:
    work = make("chat", 3 * TURNS)
    for number, ((earlier, answer), (later, _)) in enumerate(itertools.pairwise(work)):
        follows = later[: len(earlier)] == earlier and len(later) - len(earlier) - answer in range(4, 81)
        assert follows == ((number + 1) % TURNS != 0)
    assert len({tuple(prompt[:150]) for prompt, _ in work}) == 1
    assert all(16 <= new <= 128 for _, new in work)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_fits_into_the_context_of_gpt2(name: str) -> None:
    assert longest(make(name, 500)) <= 1024


def test_distinct_tokens_are_the_nodes_of_the_prompts_tree() -> None:
    prompts = [[1, 2, 3], [1, 2, 4, 5], [2], [1, 2, 3], [1]]
    nodes = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)}
    assert distinct_tokens(prompts) == len(nodes) == 6
    assert distinct_tokens([prompt for prompt, _ in make("few_shot", 3)]) == 600 + 3 * 16


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
