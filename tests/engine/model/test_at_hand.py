"""The tokenizer that shows an output's tokens, held against that of transformers, for tokenizers of many kinds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.config import ModelConfig
from pipeline.engine.model.at_hand import tokenizer_at_hand
from pipeline.engine.model.files.checkpoint import TOKENIZER_FILES
from pipeline.engine.model.quick import QuickTokenizer
from pipeline.engine.model.tokenizer import load_tokenizer
from pipeline.errors import ModelRefused
from pipeline.work.tokens import token_texts
from tests.engine.small.tokenizer_kinds import FOLLOWED, OTHERS, made
from tests.example_counts import examples
from tests.small_runs import MODEL, python


def content(folder: Path) -> dict[str, str]:
    """The SHA-256 of its files, as a plan has them."""
    there = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return {f"tokenizer/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in there}


@pytest.mark.parametrize("kind", [*FOLLOWED, *OTHERS])
def test_tokens_are_shown_as_transformers_shows_them(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    made(kind).save_pretrained(folder)
    quick, whole = tokenizer_at_hand(ModelConfig(path=str(folder)), content(folder)), load_tokenizer(folder, 0)
    assert isinstance(quick, QuickTokenizer)
    size = len(made(kind))
    assert [quick.token(i) for i in range(size + 2)] == [whole.token(i) for i in range(size + 2)]
    assert [quick.decode([i], special=True) for i in range(size)] == [
        whole.decode([i], special=True) for i in range(size)
    ]

    @settings(max_examples=examples(50), deadline=None)
    @given(ids=st.lists(st.integers(0, size - 1), max_size=20))
    def texts_are_equal(ids: list[int]) -> None:
        assert quick.decode(ids, special=True) == whole.decode(ids, special=True)
        assert token_texts(ids, quick) == token_texts(ids, whole)

    texts_are_equal()


def test_it_brings_in_neither_torch_nor_transformers() -> None:
    script = (
        "import sys\n"
        "from pipeline.engine.config import ModelConfig\n"
        "from pipeline.engine.model.at_hand import tokenizer_at_hand\n"
        f"tokenizer_at_hand(ModelConfig(path={str(MODEL)!r}), {content(MODEL)!r})\n"
        "sys.exit(sorted({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    assert python(script).returncode == 0


def test_without_the_file_that_holds_it_all_transformers_reads_it(tmp_path: Path) -> None:
    for name in TOKENIZER_FILES:
        if (MODEL / name).is_file():
            (tmp_path / name).write_bytes((MODEL / name).read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")  # nothing that the library understands
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        tokenizer_at_hand(ModelConfig(path=str(tmp_path)), content(tmp_path))


def test_another_one_than_that_of_the_plan_is_refused() -> None:
    with pytest.raises(ModelRefused, match="not the one of the plan"):
        tokenizer_at_hand(ModelConfig(path=str(MODEL)), content(MODEL) | {"tokenizer/tokenizer.json": "0" * 64})
