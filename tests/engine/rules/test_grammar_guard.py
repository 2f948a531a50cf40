"""Grammars are checked in a separate process: what takes too long, or ends that process, costs one row."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from pipeline.engine.rules import grammar_guard
from pipeline.engine.rules.grammar_guard import _Guard, check_in_time
from pipeline.engine.rules.structured import check_grammar
from pipeline.types import SamplingParams
from tests.small_runs import REPOSITORY

RULES: list[dict[str, Any]] = [
    {}, {"regex": "a+b"}, {"regex": "(?=a)"}, {"choice": ["yes", "no"]}, {"json_schema": {"type": "object"}},
    {"json_schema": {"type": "wrong"}}, {"regex": "a{1,5}", "logit_bias": {"7": 2.0}}, {"json_schema": {"enum": []}},
]  # fmt: skip


def told(check: Any, rule: dict[str, Any]) -> str | None:
    try:
        check(SamplingParams(**rule))
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_it_says_what_the_check_itself_says(rule: dict[str, Any]) -> None:
    assert told(check_in_time, rule) == told(check_grammar, rule)


def test_fault_52_a_grammar_that_takes_too_long_costs_its_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that never answers stands for it, and is replaced."""
    guard, plain = _Guard(), json.dumps({"regex": "a"})
    try:
        assert guard.ask("regex", plain) is None
        assert guard._child is not None
        first = guard._child
        first.send_signal(19)  # SIGSTOP: it goes on no further
        monkeypatch.setattr(grammar_guard, "_WAIT_SECONDS", 0.2)
        message = guard.ask("regex", plain)
        assert message is not None and message.startswith("regex: takes more than 10 s or too much memory")
        assert first.returncode is not None
        monkeypatch.undo()
        assert guard.ask("regex", plain) is None
    finally:
        guard.end()


def test_fault_52_a_grammar_that_takes_minutes_does_not() -> None:
    """Its automaton has a state for each remainder."""
    message = told(check_in_time, {"json_schema": {"type": "integer", "multipleOf": 99_999_989}})
    assert message is not None and "\n" not in message
    assert told(check_in_time, {"regex": "a"}) is None


CROWDED = """
import mmap, runpy
taken = mmap.mmap(-1, 4 << 30)  # address space only, as the stacks and buffers of a hundred threads are
runpy.run_module("pipeline.engine.rules.grammar_child", run_name="__main__")
"""


@pytest.mark.parametrize("limit", [None, 16 << 30])
def test_what_the_imports_took_leaves_grammars_their_memory(limit: int | None) -> None:
    """On a machine of many cores, numpy's threads take gigabytes of address space before the first grammar comes."""
    lines = [json.dumps(SamplingParams(regex=regex).plain()) for regex in ("a+b", "(?=a)")]
    cap = "" if limit is None else f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))"
    done = subprocess.run(
        [sys.executable, "-c", cap + CROWDED], input="\n".join(lines), capture_output=True, text=True, check=True,
        cwd=REPOSITORY,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0] is None and answers[1].startswith("regex: ")


def test_a_process_that_ends_is_replaced() -> None:
    guard, plain = _Guard(), json.dumps({"regex": "a"})
    try:
        for _ in range(2):
            assert guard.ask("regex", plain) is None
            assert guard._child is not None
            guard._child.kill()
            guard._child.wait()
            assert "takes more than" in (guard.ask("regex", plain) or "")
        assert guard.ask("regex", plain) is None
    finally:
        guard.end()


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (
            {"properties": {"score": {"type": "integer"}}, "patternProperties": {"^score$": {"type": "integer"}}},
            "score",
        ),
        ({"items": {"properties": {"ab": {}}, "patternProperties": {"b": {}}}}, "ab"),
        ({"$defs": {"x": {"anyOf": [{"properties": {"n": {}}, "patternProperties": {".": {}}}]}}}, "n"),
    ],
)
def test_patterns_that_speak_of_a_declared_property_are_refused(schema: dict[str, Any], name: str) -> None:
    message = told(check_grammar, {"json_schema": {"type": "object", **schema}})
    assert message is not None and f"matches the declared property {name!r}" in message


def test_patterns_of_other_properties_are_served() -> None:
    schema = {
        "type": "object",
        "properties": {"score": {"type": "integer"}},
        "patternProperties": {"^x_": {"type": "integer"}},
    }
    assert told(check_grammar, {"json_schema": schema}) is None
