"""The tokenizer of a checkpoint: text to ids for prompts, ids to text for completions.

It does not know columns, rows or the engine's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ModelRefused


class Tokenizer:
    """A thin face over a transformers tokenizer, `inner`."""

    def __init__(self, inner: Any, vocab_size: int) -> None:
        """Wrap a loaded tokenizer; `vocab_size` is the model's, which may exceed the tokenizer's."""
        self.inner = inner
        self.vocab_size = vocab_size
        self.bos_token_id: int | None = inner.bos_token_id if inner.bos_token_id is not None else inner.eos_token_id
        self.eos_token_id: int | None = inner.eos_token_id
        self._special = frozenset(inner.all_special_ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens that the model expects at its start."""
        if not texts:
            return []
        # verbose=False: a text longer than the model's context is handled by source.on_long_prompt, not a warning
        return self.inner(list(texts), verbose=False)["input_ids"]  # type: ignore[no-any-return]

    def spell(self, text: str) -> list[int]:
        """Token ids of a piece of text, as it stands within others."""
        return self.inner.encode(text, add_special_tokens=False)  # type: ignore[no-any-return]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids; special tokens leave nothing."""
        return self.inner.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)  # type: ignore[no-any-return]

    def token(self, token_id: int) -> str:
        """The token of an id as the vocabulary spells it, e.g. `<|endoftext|>`."""
        token = self.inner.convert_ids_to_tokens(token_id)
        return token if isinstance(token, str) else str(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether decoding leaves the token out."""
        return token_id in self._special


def load_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """Load the tokenizer in a folder; no code from the folder is run.

    Raises:
        ModelRefused: If transformers cannot load it.
    """
    from transformers import AutoTokenizer

    try:
        inner = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(
            f"{directory}: the tokenizer cannot be loaded: {' '.join(str(error).split())[:200]}"
        ) from error
    return Tokenizer(inner, vocab_size)
