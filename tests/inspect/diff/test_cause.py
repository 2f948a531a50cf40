"""Causes from plans and environments alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.inspect.diff.cause import COPIED, GENERATED, ROWS, Seen, explain
from pipeline.inspect.diff.sides import Side
from pipeline.inspect.output import Output
from pipeline.planning.plan import InputFile, Plan, make_plan
from pipeline.store.local import LocalStore

ENVIRONMENT = {
    "torch": "2.13",
    "promptmill": "1",
    "batch_invariant": True,
    "linear_kernels": {"compiled": 3},
    "dtype": "float32",
}
OPTIONS: dict[str, Any] = {
    "recipe": "generate", "schema": 2, "sampling": {"seed": 0, "temperature": 1.0, "n": 1}, "stats": {"columns": ["logprob"]},
    "source": {"template": None, "id_column": "id", "sampling_column": None}, "output": {"include_prompt": True},
    "model": {"content": {"model/a.safetensors": "00", "tokenizer/tokenizer.json": "11", "tokenizer/chat_template.jinja": "22"},
              "dtype": "float32", "quantization": "none"},
    "engine": {"name": "continuous", "max_model_len": 8},
}  # fmt: skip
SEEN = Seen(frozenset({GENERATED}))


def changed(key: str, value: Any) -> dict[str, Any]:
    section, _, name = key.partition(".")
    if not name:
        return {**OPTIONS, key: value}
    inner, _, leaf = name.partition("|")
    own = {**OPTIONS[section], inner: {**OPTIONS[section][inner], leaf: value} if leaf else value}
    return {**OPTIONS, section: own}


def side(options: dict[str, Any] | None = None, environment: Any = None, rows: int = 4, content: str = "x") -> Side:
    files = [InputFile("in.parquet", "/in.parquet", 1, rows, "00", groups=(content,))]
    plan: Plan | None = make_plan(files, options or OPTIONS, rows_per_shard=4)
    output = Output("out", LocalStore("/nowhere"), frozenset(), planned=True, finished=True)
    where = ENVIRONMENT if environment is None else environment
    return Side(
        output=output, plan=plan, without_plan="", parts=("p",), name="a", rows=rows, size=1, schema=None, environments=(where,)
    )  # fmt: skip


def named(a: Side, b: Side, seen: Seen = SEEN) -> list[str]:
    return [cause.topic for cause in explain(a, b, seen).causes]


@pytest.mark.parametrize(
    ("key", "value", "topic"),
    [
        ("sampling.seed", 1, "seed"),
        ("sampling.temperature", 0.5, "sampling"),
        ("source.template", "{{ x }}", "prompts"),
        ("model.quantization", "int8", "precision"),
        ("model.dtype", "bfloat16", "precision"),
        ("model.content|model/a.safetensors", "ff", "model"),
        ("model.content|tokenizer/tokenizer.json", "ff", "tokenizer"),
        ("model.content|tokenizer/chat_template.jinja", "ff", "chat template"),
        ("model.content|adapter/adapter_model.safetensors", "ff", "adapter"),
        ("engine.kernels", "none", "kernels"),
        ("engine.max_model_len", 9, "engine"),
        ("schema", 3, "schema version"),
        ("recipe", "score", "recipe"),
    ],
)
def test_what_a_plan_tells(key: str, value: Any, topic: str) -> None:
    assert named(side(), side(changed(key, value))) == [topic]


@pytest.mark.parametrize(
    ("facts", "topic"),
    [
        ({"torch": "2.12"}, "torch version"),
        ({"promptmill": "2"}, "promptmill version"),
        ({"linear_kernels": {"fixed": 3}}, "kernels"),
        ({"batch_invariant": False}, "no promise"),
        ({"processor_class": "x/1/2"}, "processor"),
    ],
)
def test_what_an_environment_tells(facts: dict[str, Any], topic: str) -> None:
    assert named(side(), side(environment={**ENVIRONMENT, **facts})) == [topic]


def test_kernels_of_another_precision_follow_from_it() -> None:
    other = side(
        changed("model.quantization", "int8"), {**ENVIRONMENT, "linear_kernels": {"int8-compiled": 3}, "dtype": "x"}
    )
    assert named(side(), other) == ["precision"]


def test_a_seed_that_greedy_decoding_does_not_use() -> None:
    greedy = {**OPTIONS, "sampling": {"seed": 0, "temperature": 0, "n": 1}}
    other = {**OPTIONS, "sampling": {"seed": 1, "temperature": 0, "n": 1}}
    found = explain(side(greedy), side(other), SEEN)
    assert found.causes == () and found.unexplained == {GENERATED}


def test_an_input_whose_prompts_are_the_same_changes_no_completion() -> None:
    same = Seen(frozenset({GENERATED}), same_prompts=True)
    other = {**changed("sampling.seed", 5)}
    assert named(side(), side(other, content="y"), same) == ["seed"]
    assert named(side(), side(other, content="y")) == ["input", "seed"]


def test_the_content_of_a_file_is_compared_where_the_same_columns_are_used() -> None:
    assert named(side(), side(content="y")) == ["input"]
    assert named(side(), side(changed("source.template", "{{ x }}"), content="y")) == ["prompts"]
    assert named(side(), side(changed("source.template", "{{ x }}"), rows=5)) == ["input", "prompts"]


def test_columns_and_limits_change_no_completion() -> None:
    found = explain(side(), side(changed("stats.columns", [])), SEEN)
    assert found.causes == () and found.unexplained == {GENERATED}
    assert named(side(), side(changed("source.id_column", "x")), Seen(frozenset({ROWS}))) == ["ids"]
    assert named(side(), side(changed("source.keep_columns", ["x"])), Seen(frozenset({COPIED}))) == ["columns"]


def test_options_that_an_earlier_version_did_not_have() -> None:
    newer = {**OPTIONS, "source": {**OPTIONS["source"], "chat": False, "system_prompt": None}}
    older = {name: value for name, value in OPTIONS.items() if name != "recipe"}
    assert explain(side(older), side(newer), SEEN).causes == ()
    assert named(side(older), side({**newer, "source": {**newer["source"], "chat": True}})) == ["prompts"]


def test_a_plan_of_the_first_format_knows_its_files_by_size_and_footer() -> None:
    old = side(content="")
    assert old.plan is not None
    older = replace(old, plan=replace(old.plan, format=1))
    assert explain(older, side(content="y"), SEEN).causes == ()
    assert named(older, side(rows=5)) == ["input"]


def test_an_environment_that_was_not_recorded() -> None:
    assert named(side(), side(environment={})) == ["environment"]
