"""The dataset card: its front matter, its tables, and text that tries to be markup."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.output.card.card import dataset_card
from pipeline.output.record.counts import Counts
from pipeline.output.record.manifest import Manifest
from pipeline.output.schema import MEANINGS
from pipeline.planning.plan import InputFile, Plan, make_plan
from tests.output.made_output import FULL, plan

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HOSTILE = (
    "---\ntags: [x]\n</td><script>alert(1)</script> | `a` **b** [c](http://d) ![e](f)"
    ' www.g.de <!-- \u2028 \x1b[0m \ud800 "'
)
TAGS = ("table", "thead", "tbody", "tr", "th", "td", "heading", "paragraph")
KINDS = {"inline", "text", "text_special", "code_inline", "fence", "softbreak"}


def card(made: Plan | None = None, completions: int = 1234, **options: Any) -> str:
    made = made or plan()
    totals = Counts(617, completions, 4000, 50_000, {"EMPTY_PROMPT": 2})
    manifest = Manifest(made.plan_id, "0.1.0", totals, {}, (), {"torch": "2.13", "ray": None, "threads": 2})
    chosen: dict[str, Any] = {"model": "openai-community/gpt2", "sampling": {"n": 2, "stop": ["a|b"]}, "schema": FULL,
                              "title": "Generated texts", "meanings": MEANINGS}  # fmt: skip
    return dataset_card(manifest, made, **{**chosen, **options})


def front_matter(text: str) -> Any:
    _, front, _ = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front)


def test_the_front_matter_names_the_plan_s_parts() -> None:
    made = plan()
    assert front_matter(card(made)) == {
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": f"data/{made.plan8}-*.parquet"}]}
        ],
        "task_categories": ["text-generation"],
        "tags": ["promptmill", "synthetic"],
        "size_categories": ["1K<n<10K"],
    }


@pytest.mark.parametrize(("completions", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**9, "n>1B")])
def test_size_categories(completions: int, size: str) -> None:
    assert front_matter(card(completions=completions))["size_categories"] == [size]


def test_how_completions_ended_is_among_the_counts() -> None:
    made = plan()
    totals = Counts(
        10, 20, 40, 50, {}, {"length": 5, "stop": 15}, {"shortest": 1, "longest": 64}, clamped_rows=3, cut_off=2
    )
    manifest = Manifest(made.plan_id, "0.1.0", totals, {}, (), {})
    text = dataset_card(manifest, made, model="m", sampling={}, schema=FULL, title="t", meanings={})
    for line in ("| ended by length | 5 |", "| ended by stop | 15 |", "| shortest completion, tokens | 1 |",
                 "| longest completion, tokens | 64 |", "| input rows clamped by the context | 3 |"):  # fmt: skip
        assert line in text
    assert "ended by" not in card(made), "nothing is said where parts of an earlier version say nothing"


def test_tables_say_what_is_there() -> None:
    text = card()
    for line in (
        "| model | openai-community/gpt2 |", "| torch | 2.13 |", "| ray | null |", "| n | 2 |",
        r'| stop | \["a\|b"\] |', "| completions | 1,234 |", r"| errors: EMPTY\_PROMPT | 2 |",
        "| topic | string | copied from the input |", "| in/a.parquet | 10 | SHA-256 47aec4b16657492b… |",
    ):  # fmt: skip
        assert line in text, line
    for name in FULL.names:
        assert f"| {name.replace('_', chr(92) + '_')} | " in text
    assert "licence" in text


def test_many_inputs_are_counted() -> None:
    files = [InputFile(f"f{i}", f"/f{i}", 1, 1, "ab") for i in range(30)]
    assert "| and 10 more | | |" in card(make_plan(files, {}, rows_per_shard=10))


def cells(tokens: list[Any]) -> list[list[str]]:
    """The text of each table row's cells, as a reader sees it."""
    rows: list[list[str]] = []
    for before, token in itertools.pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("td_open", "th_open"):
            rows[-1].append("".join(child.content for child in token.children))
    return rows


def as_shown(value: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", value).strip()


@given(st.text(max_size=40) | st.text("\\`*_[]()<>&|~!#-+\n\"'ab:/", max_size=30) | st.just(HOSTILE))
def test_text_from_outside_is_shown_as_it_is_and_makes_no_markup(value: str) -> None:
    made = make_plan([InputFile(value, "/p", 1, 1, "ab")], {}, rows_per_shard=1)
    text = card(made, model=value, sampling={value: value}, samples=[(value, value)])
    assert front_matter(text).keys() == {"configs", "task_categories", "tags", "size_categories"}
    tokens = MARKDOWN.parse(text.encode().decode().split("\n---\n", 1)[1])
    kinds = {t.type for token in tokens for t in [token, *(token.children or [])]}
    assert kinds <= KINDS | {f"{tag}_{way}" for tag in TAGS for way in ("open", "close")}
    rows = cells(tokens)
    shown = as_shown(value)
    assert ["model", shown] in rows
    assert [shown, shown] in rows
    assert [shown, "1", "SHA-256 47aec4b16657492b…"] in rows
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", *["h2"] * 8]


def test_a_sample_cannot_end_its_block() -> None:
    text = card(samples=[("```\n# not a title\n````", None), (None, "x" * 5000)])
    assert "`````text\n```\n# not a title\n````\n`````" in text
    assert "x" * 599 + "…" in text
    assert "x" * 600 not in text
