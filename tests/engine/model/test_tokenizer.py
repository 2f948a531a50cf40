"""Text to ids and back, and a vocabulary that is smaller than the model's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.model.tokenizer import Tokenizer, end_tokens, load_tokenizer
from pipeline.errors import ModelRefused
from tests.engine.small.llama_like import llama_tokenizer
from tests.engine.small.tiny_models import DEMO, END, byte_tokenizer

BYTES = Tokenizer(byte_tokenizer(), 320)


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_any_text_survives(texts: list[str]) -> None:
    ids = BYTES.encode_batch(texts)
    assert [BYTES.decode(i) for i in ids] == texts
    assert all(END < t < BYTES.vocab_size for row in ids for t in row)


def test_special_tokens_leave_no_text_but_have_a_name() -> None:
    (ids,) = BYTES.encode_batch(["ab"])
    assert BYTES.decode([END, *ids, END]) == "ab"
    assert BYTES.token(END) == "<|end|>"
    assert BYTES.bos_token_id == BYTES.eos_token_id == END


def test_ids_beyond_the_tokenizer_leave_no_text_and_are_named_by_number() -> None:
    """Models have more rows than their tokenizer has tokens, and sampling may choose one."""
    assert BYTES.decode([319]) == ""
    assert BYTES.token(319) == "319"


def test_texts_longer_than_the_context_are_not_warned_about() -> None:
    tokenizer = load_tokenizer(DEMO, 1024)
    (ids,) = tokenizer.encode_batch(["word " * 1000])
    assert len(ids) > 256


def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelRefused, match="the tokenizer cannot be loaded") as refused:
        load_tokenizer(tmp_path, 10)
    assert "\n" not in str(refused.value)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ModelRefused, match="the tokenizer cannot be loaded"):
        load_tokenizer(tmp_path, 10)


def test_a_text_gets_one_token_of_its_beginning() -> None:
    inner = llama_tokenizer(add_bos=True)
    tokenizer = Tokenizer(inner, len(inner))
    texts = ["Hello", "<s>Hello", "<s> Hello", ""]
    assert [ids.count(1) for ids in tokenizer.encode_batch(texts)] == [1, 1, 1, 1]
    assert [ids.count(1) for ids in tokenizer.encode_batch(texts, True)] == [1, 2, 2, 1]
    assert [ids.count(1) for ids in tokenizer.encode_batch(texts, False)] == [0, 1, 1, 0]
    assert tokenizer.encode_batch(texts, True) == inner(texts)["input_ids"]
    assert tokenizer.encode_batch(texts, False) == inner(texts, add_special_tokens=False)["input_ids"]
    plain = Tokenizer(llama_tokenizer(), len(llama_tokenizer()))
    assert plain.encode_batch(["<s><s>Hello"])[0].count(1) == 2, "a tokenizer that adds none takes a text as it is"


def test_the_end_of_a_prompt_that_tells_how_to_go_on() -> None:
    inner = llama_tokenizer()
    tokenizer, word = Tokenizer(inner, len(inner)), inner.convert_tokens_to_ids("\u2581Hello")
    train = [inner.convert_tokens_to_ids(f"<0x{b:02X}>") for b in "🚂".encode()]
    assert tokenizer.context([]) == ()
    assert tokenizer.context([1, word]) == (1, word)
    assert tokenizer.context([word] * 100) == (word,) * 8
    assert tokenizer.context([word] * 9 + [1] * 20) == (word,) * 8 + (1,) * 20
    # eight tokens from the end stands a byte: the whole character and the word before it are taken
    assert tokenizer.context([word] * 5 + train + [word] * 5) == (word, *train, *[word] * 5)
    assert tokenizer.context([1] * 50) == (1,) * 50


def test_the_tokenizers_end_token_ends_texts_too(caplog: pytest.LogCaptureFixture) -> None:
    assert end_tokens(frozenset({5, 7}), BYTES) == {5, 7, END}
    assert not caplog.records
    assert end_tokens(frozenset({50256}), BYTES) == {END}
    assert "names the end token 50256, which it does not have: it has ids 0 to 319" in caplog.text
    endless = Tokenizer(llama_tokenizer(), 2)
    caplog.clear()
    assert end_tokens(frozenset({-1}), endless) == frozenset()
    assert "names an end token: every text goes on until sampling.max_tokens" in caplog.text
