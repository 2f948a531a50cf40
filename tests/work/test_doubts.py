from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem

from pipeline.engine.base import Identity
from pipeline.prompts.files.listing import Source
from pipeline.work.doubts import doubts
from pipeline.work.sampling import SamplingConfig
from tests.small_runs import configured


def told(
    source: dict[str, Any], sampling: dict[str, Any], template: str | None = None, damaged: tuple[str, ...] = ()
) -> list[str]:
    found = Source(LocalFileSystem(), (), pa.schema([]), damaged)
    identity = Identity({}, {}, {}, "float32", 1024, 100, 1, 1.0, frozenset(), chat_template=template)
    return list(doubts(configured("in", "out", source=source, sampling=SamplingConfig(**sampling)), identity, found))


@pytest.mark.parametrize(
    ("source", "sampling", "expected"),
    [
        ({"template": "Write a poem."}, {}, "source.template uses no column"),
        ({"template": r"Q: {{ q }}\nA:"}, {}, r"source.template has \n as two characters"),
        ({}, {"stop": ["END", r"\n"]}, r"sampling.stop has \n as two characters"),
        ({}, {"bad_words": [r"a\tb"]}, r"sampling.bad_words has \t as two characters"),
        (
            {},
            {"temperature": 0.0, "n": 5},
            "sampling.temperature=0 always takes the most likely token, so the 5 completions",
        ),
        ({}, {"top_k": 1, "n": 2}, "sampling.top_k=1 always"),
        (
            {},
            {"max_tokens": 1024},
            "sampling.max_tokens=1024 leaves no room for a prompt in the context of 1024 tokens",
        ),
        ({"limit": 0}, {}, "source.limit=0 takes no row"),
    ],
)
def test_what_is_surely_a_mistake(source: dict[str, Any], sampling: dict[str, Any], expected: str) -> None:
    (line,) = told(source, sampling)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("source", "sampling"),
    [
        ({}, {}),
        ({"template": "Write about {{ topic }}."}, {"stop": ["\n", "END"]}),
        ({"template": "{% for x in list %}{{ x }}{% endfor %}"}, {"temperature": 0.0}),
        ({"limit": 1}, {"n": 5, "top_k": 2, "max_tokens": 1023}),
    ],
)
def test_what_is_none(source: dict[str, Any], sampling: dict[str, Any]) -> None:
    assert told(source, sampling) == []


@pytest.mark.parametrize(
    ("damaged", "on_corrupt", "expected"),
    [
        (
            ("a: row group 1, column 'p'",),
            "error",
            "(a: row group 1, column 'p'): the job ends there; source.on_corrupt=skip",
        ),
        (
            ("a: row group 1, column 'p'", "b"),
            "skip",
            "(a: row group 1, column 'p') and 1 more row group: its rows become",
        ),
    ],
)
def test_a_damaged_input_is_told_before_the_night(damaged: tuple[str, ...], on_corrupt: str, expected: str) -> None:
    (line,) = told({"on_corrupt": on_corrupt}, {}, damaged=damaged)
    assert expected in line
