from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputRefused
from pipeline.planning.plan import InputFile
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.listing import open_source
from pipeline.prompts.files.reader import RowReader
from pipeline.prompts.rows import RowBuilder, kept_columns
from pipeline.types import ChatFormat, ErrorCode, PromptRow, Renderer, SamplingParams, Segment

Write = Callable[..., Path]
FILES = [InputFile("a/x.parquet", "/a/x.parquet", 1, 100, ""), InputFile("y.parquet", "/y.parquet", 1, 100, "")]
JOB = SamplingParams(max_tokens=4)


class Letters:
    """One token a character; soft hyphens are none."""

    vocab_size = 1000

    def __init__(self, bos: int | None = 7) -> None:
        self.bos_token_id = bos
        self.calls = 0

    def encode_batch(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        self.calls += 1
        self.special = special
        return [[ord(c) % 1000 for c in text if c != "\xad"] for text in texts]

    def encode_spans(self, text: str, special: bool | None = None) -> tuple[list[int], list[int]]:
        raise NotImplementedError

    def token(self, token_id: int) -> str:
        return chr(token_id)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        return "".join(map(chr, ids))

    def chat(self, form: ChatFormat) -> Renderer:
        return lambda messages, tools: "".join(f"<{m['role']}>{m['content']}" for m in messages)


def built(columns: Any, tokenizer: Letters | None = None, length: int = 10, **options: Any) -> list[PromptRow]:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    builder = RowBuilder(SourceConfig(path="p", **options), JOB, tokenizer or Letters(), length, FILES)
    return builder.build(table.select(builder.columns), [Segment(0, 0, table.num_rows)])


def code(row: PromptRow) -> str | None:
    assert (row.prompt_token_ids == ()) == (row.error is not None)
    if row.error is None:
        return None
    assert row.requests() == []
    assert row.error.message.isprintable()
    assert len(row.error.message) <= 250
    return row.error.code


def test_rows_are_named_by_file_and_row_or_by_the_id_column() -> None:
    builder = RowBuilder(SourceConfig(path="p"), JOB, Letters(), 10, FILES)
    rows = builder.build(pa.table({"prompt": ["a", "b", "c"]}), [Segment(0, 98, 100), Segment(1, 5, 6)])
    assert [r.row_id for r in rows] == ["a/x.parquet:98", "a/x.parquet:99", "y.parquet:5"]
    assert [r.row_id for r in built({"prompt": ["a", "b"], "id": [10, 2]}, id_column="id")] == ["10", "2"]
    assert built({"prompt": ["a"], "id": ["../../etc/passwd"]}, id_column="id")[0].row_id == "../../etc/passwd"


def test_a_table_of_other_rows_than_the_segments_is_a_mistake() -> None:
    builder = RowBuilder(SourceConfig(path="p"), JOB, Letters(), 10, FILES)
    with pytest.raises(ValueError, match="1 rows in the table, 2 in the segments"):
        builder.build(pa.table({"prompt": ["a"]}), [Segment(0, 0, 2)])
    with pytest.raises(InputRefused):
        built({"prompt": ["a"], "id": pa.array([None], pa.string())}, id_column="id")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), "dictionary"])
def test_fault_1_a_null_prompt(kind: Any) -> None:
    column: Any = pa.array(["a", None])
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
    rows = built({"prompt": column})
    assert [code(r) for r in rows] == [None, ErrorCode.NULL_PROMPT]
    assert [r.prompt for r in rows] == ["a", None]
    assert rows[0].prompt_token_ids == (97,)


@pytest.mark.parametrize(
    "options", [{}, {"template": "{{ prompt }}"}, {"sampling_column": "prompt", "prompt_column": "ok"}]
)
def test_fault_3_invalid_utf8_is_an_error_of_its_row(options: dict[str, Any]) -> None:
    raw = pa.array([b"{}", b"\xc3("])
    table = pa.table({"prompt": pa.Array.from_buffers(pa.string(), 2, raw.buffers()), "ok": ["a", "b"]})
    assert [code(r) for r in built(table, **options)] == [None, ErrorCode.NOT_UTF8]


def test_fault_3_from_a_file(write: Write) -> None:
    raw = pa.array([b"ok", b"\xff", "ü".encode()])
    path = write("a.parquet", {"prompt": pa.Array.from_buffers(pa.string(), 3, raw.buffers())})
    config = SourceConfig(path=str(path))
    source = open_source(config)
    builder = RowBuilder(config, JOB, Letters(), 10, source.files)
    segments = [Segment(0, 0, 3)]
    table = RowReader(source.filesystem, source.files, builder.columns, source.schema).read(segments)
    rows = builder.build(table, segments)
    assert [code(r) for r in rows] == [None, ErrorCode.NOT_UTF8, None]
    assert [r.row_id for r in rows] == ["a.parquet:0", "a.parquet:1", "a.parquet:2"]


def test_fault_4_a_prompt_that_leaves_no_room_is_an_error_with_both_numbers() -> None:
    fits, long = built({"prompt": ["x" * 9, "x" * 10]})
    assert code(fits) is None
    assert code(long) == ErrorCode.PROMPT_TOO_LONG
    assert long.prompt == "x" * 10
    assert long.error is not None
    assert long.error.message == "the prompt has 10 tokens, at most 9 fit; see source.on_long_prompt=truncate_left"

    assert (long.prompt_tokens, fits.prompt_tokens) == (10, 9)


def truncated(prompt: str, max_tokens: int = 4, least: int | None = None, length: int = 16) -> PromptRow:
    table = pa.table({"prompt": [prompt], "s": [f'{{"max_tokens": {max_tokens}}}']})
    options: dict[str, Any] = {
        "on_long_prompt": "truncate_left",
        "sampling_column": "s",
        "min_completion_tokens": least,
    }
    return built(table, length=length, **options)[0]


@pytest.mark.parametrize(
    ("max_tokens", "least", "kept"),
    [(2, None, 14), (9, None, 12), (50, None, 12), (50, 1, 15), (50, 8, 8), (3, 8, 13), (50, 99, 1)]
)  # fmt: skip
def test_fault_4_truncate_left_keeps_the_end_and_the_room_that_was_promised(
    max_tokens: int, least: int | None, kept: int
) -> None:
    prompt = "abcdefghijklmnopqrstuvwxyz"
    cut = truncated(prompt, max_tokens, least)
    assert cut.prompt_token_ids == tuple(map(ord, prompt[-kept:]))
    assert (cut.prompt, cut.prompt_tokens, cut.cut) == (prompt, kept, 26 - kept)


@given(length=st.integers(2, 40), max_tokens=st.integers(1, 60), least=st.none() | st.integers(1, 60))
def test_a_token_more_never_leaves_much_less_of_a_prompt(length: int, max_tokens: int, least: int | None) -> None:
    kept = [truncated("x" * n, max_tokens, least, length).prompt_tokens for n in range(1, 60)]
    assert kept == sorted(kept) and kept[-1] < length
    assert all(b - a <= 1 for a, b in itertools.pairwise(kept))


def test_what_is_cut_keeps_the_beginning_of_text_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    cut = truncated("\x07" + "abcdefghijklmnopqrstuvwxyz")
    assert cut.prompt_token_ids == (7, *map(ord, "abcdefghijklmnopqrstuvwxyz"[-11:]))
    assert (
        "1 of 1 prompts were too long and lost their beginning, such as row 'a/x.parquet:0': 12 of 27 tokens"
        in caplog.text
    )


def test_min_completion_tokens_makes_a_prompt_too_long_where_it_is_not_cut() -> None:
    fits, long = built({"prompt": ["x" * 6, "x" * 7]}, min_completion_tokens=4)
    assert (code(fits), code(long)) == (None, ErrorCode.PROMPT_TOO_LONG)


def test_fault_51_a_token_that_the_model_lacks_is_its_rows_error() -> None:
    tokenizer = Letters(bos=100)
    tokenizer.vocab_size = 100
    good, bad = built({"prompt": ["ABC", "ABz"]}, tokenizer)
    assert code(good) is None and code(bad) == ErrorCode.BAD_TOKEN_ID
    assert (
        bad.error is not None and bad.error.message == "the tokenizer's token 'z' has id 122; the model has ids 0 to 99"
    )
    (empty,) = built({"prompt": [""]}, tokenizer, on_empty_prompt="bos")
    assert code(empty) == ErrorCode.BAD_TOKEN_ID


@pytest.mark.parametrize("special", [None, True, False])
def test_special_tokens_are_added_as_asked_for(special: bool | None) -> None:
    tokenizer = Letters()
    built({"prompt": ["a"]}, tokenizer, add_special_tokens=special)
    assert tokenizer.special is special


def test_fault_5_an_empty_prompt_is_an_error_or_the_bos_token() -> None:
    columns = {"prompt": ["", "\xad", "a"]}
    empty = ErrorCode.EMPTY_PROMPT
    assert [code(r) for r in built(columns)] == [empty, empty, None]
    assert [r.prompt for r in built(columns)] == ["", "\xad", "a"]
    assert [r.prompt_token_ids for r in built(columns, on_empty_prompt="bos")] == [(7,), (7,), (97,)]
    without = built(columns, Letters(bos=None), on_empty_prompt="bos")
    assert [code(r) for r in without] == [empty, empty, None]
    assert without[0].error is not None
    assert "no beginning-of-text token" in without[0].error.message


LISTS = [pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_view(pa.int64())]


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_token_ids_are_checked(kind: pa.DataType) -> None:
    ids = pa.array([[1, 999], None, [1, None], [-1], [1000], [], [5] * 10], kind)
    rows = built({"ids": ids}, token_ids_column="ids", on_empty_prompt="bos")
    bad = ErrorCode.BAD_TOKEN_ID
    assert [code(r) for r in rows] == [None, ErrorCode.NULL_PROMPT, bad, bad, bad, None, ErrorCode.PROMPT_TOO_LONG]
    assert rows[0].prompt_token_ids == (1, 999)
    assert rows[5].prompt_token_ids == (7,)
    assert [r.error.message for r in rows[2:5] if r.error] == [
        "token id 1 is null; must be from 0 to 999",
        "token id 0 is -1; must be from 0 to 999",
        "token id 0 is 1000; must be from 0 to 999",
    ]
    assert {r.prompt for r in rows} == {None}


def test_token_ids_of_fixed_size_lists() -> None:
    ids = pa.array([[1, 2], None], pa.list_(pa.uint16(), 2))
    rows = built({"ids": ids}, token_ids_column="ids")
    assert [code(r) for r in rows] == [None, ErrorCode.NULL_PROMPT]


def test_sampling_is_overridden_by_json_and_by_structs() -> None:
    structs = pa.array([{"temperature": 0.0, "seed": None}, None, {"temperature": None, "seed": 9}])
    for column in (structs, pa.array(['{"temperature": 0}', None, '{"seed": 9}'])):
        rows = built({"prompt": ["a"] * 3, "s": column}, sampling_column="s")
        assert [(r.sampling.temperature, r.sampling.seed) for r in rows] == [(0.0, 0), (1.0, 0), (1.0, 9)]


def test_bad_sampling_comes_before_what_is_wrong_with_the_prompt_and_keeps_the_jobs() -> None:
    rows = built({"prompt": ["text", None], "s": ['{"n": 0}', "{"]}, sampling_column="s")
    assert [code(r) for r in rows] == [ErrorCode.BAD_SAMPLING] * 2
    assert [r.sampling for r in rows] == [JOB, JOB]
    assert [r.prompt for r in rows] == ["text", None]


def test_a_template_sees_the_row_and_its_failures_are_the_rows() -> None:
    columns = {"a": ["x", None, "z"], "b": [{"c": 1}, {"c": 2}, {"c": 0}], "unused": [1, 2, 3]}
    rows = built(columns, template="{{ a }}:{{ 6 // b.c }}")
    assert [r.prompt for r in rows] == ["x:6", None, None]
    assert [code(r) for r in rows] == [None, ErrorCode.BAD_TEMPLATE_ROW, ErrorCode.BAD_TEMPLATE_ROW]


def test_a_template_without_columns() -> None:
    builder = RowBuilder(SourceConfig(path="p", template="hello"), JOB, Letters(), 10, FILES)
    assert builder.columns == []
    rows = builder.build(pa.table({"x": [1, 2]}).select([]), [Segment(0, 0, 2)])
    assert [r.prompt for r in rows] == ["hello", "hello"]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    prompts = ["a", None, "", "x" * 20, "b"]
    together = built({"prompt": prompts})
    for number, prompt in enumerate(prompts):
        alone = built({"prompt": pa.array([prompt], pa.string())})[0]
        assert (alone.prompt, alone.prompt_token_ids, alone.error) == (
            together[number].prompt,
            together[number].prompt_token_ids,
            together[number].error,
        )


def test_the_tokenizer_is_called_once_for_a_table() -> None:
    tokenizer = Letters()
    assert len(built({"prompt": ["a", None, "", "b"] * 500}, tokenizer)) == 2000
    assert tokenizer.calls == 1


def test_fault_14_no_rows() -> None:
    assert built({"prompt": pa.array([], pa.string())}) == []


def test_kept_columns_have_the_types_of_the_input() -> None:
    table = pa.table({"prompt": ["a"], "k": pa.array([1], pa.uint8()), "d": pa.array(["x"]).dictionary_encode()})
    kept = kept_columns(table, SourceConfig(path="p", keep_columns=["d", "k"]))
    assert kept.equals(table.select(["d", "k"]))
    assert kept_columns(table, SourceConfig(path="p")).num_columns == 0
