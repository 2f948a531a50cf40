"""Requests of OpenAI's batch files, and what generate makes of their parameters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import InputRefused
from pipeline.prompts.imports.importing import Imported
from pipeline.prompts.overrides import Overrides
from pipeline.types import SamplingParams

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def request(number: int, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": f"r{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt", **body},
    }


def lines(*requests: Any) -> str:
    return "\n".join(map(json.dumps, requests))


def test_a_request_is_a_row(read: Callable[..., list[dict[str, Any]]]) -> None:
    body = {
        "messages": MESSAGES,
        "max_completion_tokens": 9,
        "temperature": 0,
        "stop": "END",
        "seed": 3,
        "n": 2,
        "top_p": None,
    }
    (row,) = read("x.jsonl", lines(request(1, **body)))
    assert (row["custom_id"], row["messages"]) == ("r1", MESSAGES)
    assert json.loads(row["sampling"]) == {"max_tokens": 9, "temperature": 0, "stop": "END", "seed": 3, "n": 2}
    assert json.loads(row["unmapped"]) == {"model": "gpt"}


def test_generate_follows_the_parameters(read: Callable[..., list[dict[str, Any]]]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    rows = read("x.jsonl", lines(
        request(1, messages=MESSAGES, max_tokens=5, logit_bias={"7": -100}, presence_penalty=0.5, stop=["a", "b"]),
        request(2, messages=MESSAGES, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
        request(3, messages=MESSAGES, response_format={"type": "text"}, guided_choice=["yes", "no"], top_k=3),
    ))  # fmt: skip
    overrides = Overrides(SamplingParams(), vocab_size=100)
    assert [overrides.apply(row["sampling"]) for row in rows] == [
        SamplingParams(max_tokens=5, logit_bias=((7, -100.0),), presence_penalty=0.5, stop=("a", "b")),
        SamplingParams(json_schema=json.dumps(schema)),
        SamplingParams(choice=("yes", "no"), top_k=3),
    ]


def test_what_has_no_name_here_is_kept_and_told_once(
    imported: Callable[..., Imported], read: Callable[..., Any]
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    text = lines(
        request(1, messages=MESSAGES, logprobs=True, top_logprobs=5, tools=tools),
        request(2, messages=MESSAGES, response_format={"type": "json_object"}, user="me"),
    )
    made = imported("x.jsonl", text)
    assert made.notes == [
        "kept in the column unmapped, as generate does not follow them: logprobs, response_format, top_logprobs, user; every "
        "output has token_logprobs, stats.top_logprobs=K adds the likeliest"
    ]
    first, second = read("x.jsonl", text)
    assert json.loads(first["tools"]) == tools and second["tools"] is None
    assert json.loads(second["unmapped"]) == {"model": "gpt", "response_format": {"type": "json_object"}, "user": "me"}


@pytest.mark.parametrize("name", ["x.jsonl", "x"])
def test_a_long_request_is_known_for_what_it_is(name: str, read: Callable[..., list[dict[str, Any]]]) -> None:
    long = [{"role": "user", "content": "x" * 300_000}]
    rows = read(name, lines(request(1, messages=long), request(2, messages=MESSAGES)))
    assert [row["messages"] for row in rows] == [long, MESSAGES]


def test_texts_and_conversations_in_one_file(read: Callable[..., list[dict[str, Any]]]) -> None:
    rows = read("x.jsonl", lines(request(1, messages=MESSAGES), request(2, prompt="Once")))
    assert [(row["messages"], row["prompt"]) for row in rows] == [(MESSAGES, None), (None, "Once")]


def test_messages_of_several_kinds_are_kept_as_json_text(read: Callable[..., list[dict[str, Any]]]) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    text = lines(request(1, messages=MESSAGES), request(2, messages=parts))
    with pytest.raises(
        InputRefused, match=r"line 2: 'messages\[\].content' is a list, and text before it; .*json_columns=\[messages\]"
    ):
        read("x.jsonl", text)
    rows = read("x.jsonl", text, json_columns=["messages"])
    assert [json.loads(row["messages"]) for row in rows] == [MESSAGES, parts]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"body": {"prompt": "a"}}, "has no custom_id"),
        ({"custom_id": 7, "body": {"prompt": "a"}}, "has no custom_id, which has to be a text"),
        ({"custom_id": "b"}, "has no body"),
        ({"custom_id": "b", "body": {"input": "a"}}, "has no messages and no prompt in its body, which has 'input'"),
        ({"custom_id": "b", "body": {"prompt": ["a", "b"]}}, "has a list as its prompt; write a request for each"),
        ({"custom_id": "b", "body": {"prompt": "a", "messages": MESSAGES}}, "has messages and a prompt"),
    ],
)
def test_bad_requests(bad: dict[str, Any], told: str, read: Callable[..., list[dict[str, Any]]]) -> None:
    text = lines(request(1, messages=MESSAGES), bad, request(3, messages=MESSAGES))
    with pytest.raises(InputRefused, match=f"x.jsonl: line 2: {told}"):
        read("x.jsonl", text)
    assert [row["custom_id"] for row in read("x.jsonl", text, on_bad_line="skip")] == ["r1", "r3"]
