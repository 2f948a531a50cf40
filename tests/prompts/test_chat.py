"""Conversations become the text and the ids that transformers' `apply_chat_template` makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, pre_tokenizers, processors
from tokenizers import Tokenizer as Rust
from tokenizers import models as models_
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.engine.model.chat import asks_for_the_day, dated, find_template
from pipeline.engine.model.tokenizer import Tokenizer, load_tokenizer
from pipeline.errors import ConfigurationError
from pipeline.planning.plan import InputFile
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.rows import RowBuilder
from pipeline.types import ErrorCode, PromptRow, SamplingParams, Segment
from tests.example_counts import examples
from tests.prompts.chat_templates import FAMILIES, Family

FILES = [InputFile("x.parquet", "/x.parquet", 1, 100, "")]
TALK = [
    {"role": "user", "content": "  What is 2 + 2?\n"}, {"role": "assistant", "content": "4."},
    {"role": "user", "content": "Sure? 京都 <b>"},
]  # fmt: skip
TERSE = {"role": "system", "content": "Be terse."}


def made(folder: Path, family: Family) -> Path:
    """A byte-level tokenizer with a family's special tokens and template, as `save_pretrained` writes it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = Rust(models_.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in family.special])
    if family.adds_bos:
        assert family.bos is not None
        rust.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, rust.token_to_id(family.bos))]
        )
    named = {"bos_token": family.bos, "eos_token": family.eos}
    inner = PreTrainedTokenizerFast(tokenizer_object=rust, **{k: v for k, v in named.items() if v is not None})
    inner.chat_template = family.template
    inner.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: made(tmp_path_factory.mktemp(name), family) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: load_tokenizer(folder, 1000) for name, folder in folders.items()}


def rows(tokenizer: Tokenizer, columns: Any, **options: Any) -> list[PromptRow]:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    builder = RowBuilder(SourceConfig(path="p", **options), SamplingParams(max_tokens=4), tokenizer, 5000, FILES)
    return builder.build(table.select(builder.columns), [Segment(0, 0, table.num_rows)])


def oracle(folder: Path, messages: list[dict[str, Any]], **options: Any) -> tuple[str, list[int]]:
    """What transformers makes of it, loaded anew."""
    inner: Any = AutoTokenizer.from_pretrained(folder)
    options = {"add_generation_prompt": not options.get("continue_final_message"), **options}
    ids = inner.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    return inner.apply_chat_template(messages, tokenize=False, **options), ids


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("system", [False, True], ids=["", "system"])
def test_texts_and_ids_are_those_of_transformers(name: str, system: bool, folders: Any, tokenizers: Any) -> None:
    if system and not FAMILIES[name].system:
        pytest.skip("the family has no system message")
    talk = [TERSE, *TALK] if system else TALK
    text, ids = oracle(folders[name], talk)
    for column in ([talk], [json.dumps(talk)], [{"messages": talk, "id": 1}], [json.dumps({"messages": talk})]):
        (row,) = rows(tokenizers[name], {"m": column}, messages_column="m")
        assert (row.error, row.prompt, list(row.prompt_token_ids)) == (None, text, ids)
        assert list(row.messages or ()) == talk
    beginnings = [i for i in ids if i == tokenizers[name].inner.bos_token_id]
    assert not FAMILIES[name].adds_bos or name in ("llama-2", "tinyllama") or len(beginnings) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_becomes_one_message(name: str, folders: Any, tokenizers: Any) -> None:
    asked = {"role": "user", "content": "Hi, Ada"}
    (row,) = rows(tokenizers[name], {"prompt": ["Hi, Ada"]}, chat=True)
    assert (row.prompt, list(row.prompt_token_ids)) == oracle(folders[name], [asked])
    if FAMILIES[name].system:
        (row,) = rows(
            tokenizers[name], {"who": ["Ada"]}, chat=True, template="Hi, {{ who }}", system_prompt="You meet {{ who }}."
        )
        told = [{"role": "system", "content": "You meet Ada."}, asked]
        assert (row.prompt, list(row.prompt_token_ids)) == oracle(folders[name], told)


@pytest.mark.parametrize("name", ["gpt2-chatml", "llama-3", "qwen-2.5", "gemma", "phi-3"])
def test_going_on_with_the_last_message(name: str, folders: Any, tokenizers: Any) -> None:
    talk = [TALK[0], {"role": "assistant", "content": "The answer is"}]
    (row,) = rows(tokenizers[name], {"m": [talk]}, messages_column="m", continue_final_message=True)
    assert row.error is None and row.continues
    assert (row.prompt, list(row.prompt_token_ids)) == oracle(folders[name], talk, continue_final_message=True)
    assert row.prompt is not None and row.prompt.endswith("The answer is")


def test_arguments_and_tools_reach_the_template(folders: Any, tokenizers: Any) -> None:
    (row,) = rows(tokenizers["qwen-3"], {"prompt": ["2?"]}, chat=True, chat_template_kwargs={"enable_thinking": False})
    assert row.prompt == oracle(folders["qwen-3"], [{"role": "user", "content": "2?"}], enable_thinking=False)[0]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk: list[dict[str, Any]] = [
        TALK[0], {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "3"}, TALK[2]
    ]  # fmt: skip
    expected = oracle(folders["qwen-2.5"], talk, tools=tools)
    as_openai = json.loads(json.dumps(talk))
    as_openai[1] |= {"content": None}
    as_openai[1]["tool_calls"][0]["function"]["arguments"] = '{"a": 1}'
    for columns, options in (
        ({"m": [json.dumps(as_openai)], "t": [json.dumps(tools)]}, {"tools_column": "t"}),
        ({"m": [json.dumps({"messages": talk, "tools": tools})]}, {}),
        ({"m": [json.dumps(talk)], "t": [tools]}, {"tools_column": "t"}),
    ):
        (row,) = rows(tokenizers["qwen-2.5"], columns, messages_column="m", **options)
        assert (row.error, row.prompt, list(row.prompt_token_ids)) == (None, *expected)


def test_contents_in_parts_are_one_text(tokenizers: Any) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    whole = [{"role": "user", "content": "a\nb"}]
    for column in ([parts], [json.dumps(parts)]):
        (row,) = rows(tokenizers["smollm2"], {"m": column}, messages_column="m")
        assert row == rows(tokenizers["smollm2"], {"m": [whole]}, messages_column="m")[0]


def test_a_conversation_with_a_system_message_keeps_it(folders: Any, tokenizers: Any) -> None:
    columns = {"m": [TALK, [TERSE, *TALK]]}
    first, second = rows(tokenizers["llama-3"], columns, messages_column="m", system_prompt="Be kind.")
    kind = {"role": "system", "content": "Be kind."}
    assert first.prompt == oracle(folders["llama-3"], [kind, *TALK])[0]
    assert second.prompt == oracle(folders["llama-3"], [TERSE, *TALK])[0]


BAD: list[tuple[str, Any, str]] = [
    ("mistral", [TALK[0], TALK[2]], "Conversation roles must alternate"),
    ("mistral", [TERSE, TALK[0]], "roles"), ("gemma", [TERSE, TALK[0]], "System role not supported"),
    ("smollm2", [{"role": "user"}], "message 1 ('user') has no content"),
    ("smollm2", [{"role": "user", "content": None}], "message 1 ('user') has no content"),
    ("smollm2", [TALK[0], {"content": "x"}], "message 2 has no role"), ("smollm2", [], "a conversation without messages"),
    ("smollm2", "not json", "not JSON: "), ("smollm2", '"text"', "not a list of messages"), ("smollm2", "{}", "without"),
    ("smollm2", [{"role": "user", "content": 3}], "its content is not text: 3"), ("smollm2", ["a"], "message 1 has no role"),
    ("smollm2", [{"role": "user", "content": [{"type": "image_url"}]}], "a part that is not text: 'image_url'"),
    ("smollm2", '[{"role": "user", "content": "\\ud800"}]', "surrogates not allowed"), ("smollm2", "[" * 100_000, ""),
    ("qwen-2.5", {"messages": TALK, "tools": [3]}, "tools are not a list of objects"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "talk", "words"), BAD)
def test_a_row_that_does_not_fit_is_an_error_of_its_own(name: str, talk: Any, words: str, tokenizers: Any) -> None:
    cell = talk if isinstance(talk, str) else json.dumps(talk)
    bad, good = rows(tokenizers[name], {"m": [cell, json.dumps(TALK)]}, messages_column="m")
    assert good.error is None
    assert bad.error is not None and bad.error.code is ErrorCode.BAD_TEMPLATE_ROW
    assert words in bad.error.message and "\n" not in bad.error.message
    assert bad.messages is None and bad.prompt_token_ids == ()


def test_null_and_empty(tokenizers: Any) -> None:
    null = rows(tokenizers["smollm2"], {"m": pa.array([None], pa.string())}, messages_column="m")[0]
    none, empty = rows(tokenizers["smollm2"], {"prompt": [None, ""]}, chat=True)
    codes = [row.error and row.error.code for row in (null, none, empty)]
    assert codes == [ErrorCode.NULL_PROMPT, ErrorCode.NULL_PROMPT, ErrorCode.EMPTY_PROMPT]
    (empty,) = rows(tokenizers["smollm2"], {"prompt": [""]}, chat=True, on_empty_prompt="bos")
    assert empty.error is None


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=20)}),
        min_size=1, max_size=5,
    ),
    st.sampled_from(["gpt2-chatml", "llama-3", "smollm2", "phi-3"]),
)  # fmt: skip
def test_any_conversation_in_any_form(folders: Any, tokenizers: Any, talk: list[dict[str, str]], name: str) -> None:
    expected = oracle(folders[name], talk)
    forms = pa.table({"list": [talk], "json": [json.dumps(talk)]})
    for column in forms.column_names:
        (row,) = rows(tokenizers[name], forms, messages_column=column)
        assert (row.prompt, list(row.prompt_token_ids)) == expected


def test_the_template_of_a_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    assert find_template(folders["llama-3"]) == FAMILIES["llama-3"].template
    assert find_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old {{ messages }}"}')
    assert find_template(tmp_path) == "old {{ messages }}"
    several = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert find_template(tmp_path) == "a\nb"


def test_the_day_is_the_one_that_was_planned(tokenizers: Any) -> None:
    template = """{%- if strftime_now is defined %}{{ strftime_now("%d %b %Y") }} {{ strftime_now('%Y') }}{% endif %}"""
    assert asks_for_the_day(template) and not asks_for_the_day(FAMILIES["llama-3"].template)
    (row,) = rows(tokenizers["llama-3"], {"prompt": ["x"]}, chat=True, chat_template=template, chat_date="2024-02-03")
    assert row.prompt == "03 Feb 2024 2024"
    with pytest.raises(ValueError, match="not a literal"):
        dated("{{ strftime_now(form) }}", "2024-02-03")


def test_a_template_that_does_not_compile_is_refused(tokenizers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"source.chat_template: line 2: .*endfor"):
        rows(tokenizers["llama-3"], {"prompt": ["x"]}, chat=True, chat_template="{% for m in messages %}\n{{ m }}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"system_prompt": "x"},
            "system_prompt='x': must be given with source.chat=true or source.messages_column only",
        ),
        ({"continue_final_message": True}, "continue_final_message=true: must be given with source.chat"),
        ({"chat": True, "token_ids_column": "i"}, "chat=true: must be false with source.token_ids_column"),
        ({"messages_column": "m", "prompt_column": "p"}, "prompt_column and messages_column"),
        ({"chat": True, "chat_template_kwargs": {"tools": 1}}, "must be without tools, set elsewhere"),
        ({"chat": True, "chat_template_kwargs": {"a": float("nan")}}, "must be a mapping of names to JSON values"),
        ({"chat": True, "system_prompt": "caf\udce9"}, "must be text in UTF-8"),
        ({"template": "caf\udce9 {{ x }}"}, "must be text in UTF-8"),
        ({"chat": True, "chat_date": "2024-02-31"}, "chat_date='2024-02-31': must be null or a date such as"),
    ],
)
def test_options_that_do_not_go_together(options: Any, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        SourceConfig(path="p", **options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__ }}", "{{ messages.__init__.__globals__ }}", "{{ ().__class__.__base__.__subclasses__() }}",
     "{{ messages.append(1) }}", "{% include '/etc/passwd' %}", "{% for i in range(10000000000) %}{% endfor %}",
     "{{ raise_exception.__globals__['os'] }}"],
)  # fmt: skip
def test_fault_38_a_chat_template_cannot_break_out(template: str, tokenizers: Any) -> None:
    (row,) = rows(tokenizers["smollm2"], {"prompt": ["x"]}, chat=True, chat_template=template)
    assert row.error is not None and row.error.code is ErrorCode.BAD_TEMPLATE_ROW


def test_what_a_message_holds_is_never_a_template(tokenizers: Any) -> None:
    (row,) = rows(tokenizers["smollm2"], {"prompt": ["{{ 7 * 7 }} {% raw %}"]}, chat=True)
    assert row.prompt is not None and "{{ 7 * 7 }} {% raw %}" in row.prompt
