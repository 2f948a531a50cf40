"""A tokenizer that is there at once: `tokenizer.json` by the library that reads it, without transformers and torch.

It serves to estimate how long prompts are, and to show the tokens of an output. What rows become is decided by the tokenizer of
`tokenizer.py` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.types import ChatFormat, Renderer


class QuickTokenizer:
    """A thin interface to a tokenizer of the library `tokenizers`."""

    def __init__(self, inner: Any, vocab_size: int, bos_token_id: int | None) -> None:
        """Wrap one."""
        self._inner, self.vocab_size, self.bos_token_id = inner, vocab_size, bos_token_id

    def encode_batch(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        """Token ids of each text; see `pipeline.types.Tokenizer`."""
        return [found.ids for found in self._inner.encode_batch(list(texts), add_special_tokens=special is not False)]

    def encode_spans(self, text: str, special: bool | None = None) -> tuple[list[int], list[int]]:
        """Return token ids and where each begins; see `pipeline.types.Tokenizer`."""
        found = self._inner.encode(text, add_special_tokens=special is not False)
        return found.ids, [start for start, _ in found.offsets]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of ids."""
        return str(self._inner.decode(list(ids), skip_special_tokens=not special))

    def token(self, token_id: int) -> str:
        """The token of an id; the id as text where there is none."""
        token = self._inner.id_to_token(token_id)
        return str(token_id) if token is None else str(token)

    def chat(self, form: ChatFormat) -> Renderer:
        """No template is known here.

        Raises:
            ValueError: Always.
        """
        raise ValueError("chat templates need the tokenizer of transformers")


def quick_tokenizer(folder: Path, vocab_size: int | None) -> QuickTokenizer | None:
    """Return the tokenizer in a folder; None where it has no `tokenizer.json` that can be read so.

    Args:
        folder: The tokenizer's files.
        vocab_size: The number of the model's tokens; None: those of the tokenizer.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        inner = Tokenizer.from_file(str(file))
        inner.no_truncation()
        inner.no_padding()
    except Exception:  # the library raises plain ones
        return None
    return QuickTokenizer(inner, vocab_size or inner.get_vocab_size(), _first_token(folder, inner))


def _first_token(folder: Path, inner: Any) -> int | None:
    """Return the id of the beginning-of-text token, or of the end-of-text token where there is none."""
    try:
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for name in ("bos_token", "eos_token"):
        token = told.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        found = inner.token_to_id(text) if isinstance(text, str) else None
        if found is not None:
            return int(found)
    return None
