"""Text to ids and back, and a vocabulary that is smaller than the model's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import DEMO, END, byte_tokenizer

from pipeline.engine.tokenizer import Tokenizer, load_tokenizer
from pipeline.errors import ModelRefused

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
    assert BYTES.is_special(END) and not BYTES.is_special(ids[0])
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
