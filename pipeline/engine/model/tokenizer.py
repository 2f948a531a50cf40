"""The tokenizer of a checkpoint: text to ids for prompts, ids to text for completions."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.engine.libraries import import_libraries
from pipeline.engine.model.chat import renderer
from pipeline.errors import ModelRefused
from pipeline.types import ChatFormat, Renderer

logger = logging.getLogger(__name__)

REPLACEMENT = "\ufffd"
"""What decoding returns for bytes that are not, or not yet, a whole character."""
_CONTEXT = 8
"""Number of prompt tokens that are decoded together with the text after them."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """A thin interface to a transformers tokenizer, `inner`."""

    def __init__(self, inner: Any, vocab_size: int) -> None:
        """Wrap a loaded tokenizer; `vocab_size` is the model's, which may exceed the tokenizer's."""
        self.inner = inner
        self.vocab_size = vocab_size
        self.bos_token_id: int | None = inner.bos_token_id if inner.bos_token_id is not None else inner.eos_token_id
        self.eos_token_id: int | None = inner.eos_token_id
        # a token may be special in tokenizer.json only, and decoding omits it nevertheless
        added = getattr(inner, "added_tokens_decoder", {})
        self._special = frozenset(inner.all_special_ids) | {i for i, token in added.items() if token.special}

    def encode_batch(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        """Return the token ids of each text.

        Args:
            texts: The texts.
            special: Whether to add the special tokens that the model expects around a text; None: add them, but no
                second beginning-of-text token.
        """
        if not texts:
            return []
        # verbose=False: a text longer than the model's context is handled by source.on_long_prompt, not a warning
        made = self.inner(list(texts), verbose=False, add_special_tokens=special is not False)["input_ids"]
        if special is None and self._start is not None:
            return [ids[1:] if ids[:2] == [self._start] * 2 else ids for ids in made]
        return made  # type: ignore[no-any-return]

    def encode_spans(self, text: str, special: bool | None = None) -> tuple[list[int], list[int]]:
        """See `pipeline.types.Tokenizer`.

        Raises:
            ModelRefused: If the tokenizer does not say where tokens begin.
        """
        if not self.inner.is_fast:
            raise ModelRefused("the tokenizer does not say where its tokens begin; it is of the slow kind")
        made = self.inner(text, verbose=False, add_special_tokens=special is not False, return_offsets_mapping=True)
        ids, starts = made["input_ids"], [start for start, _ in made["offset_mapping"]]
        twice = special is None and self._start is not None and ids[:2] == [self._start] * 2
        return (ids[1:], starts[1:]) if twice else (ids, starts)

    @cached_property
    def _start(self) -> int | None:
        """Return the token that precedes every text; None if there is none."""
        first = next(iter(self.inner("", verbose=False)["input_ids"]), None)
        return first if first in self._special else None

    def spell(self, text: str) -> list[int]:
        """Return the token ids of a text in the middle of another one: without special tokens or a leading space."""
        return self.inner.encode(text, add_special_tokens=False)  # type: ignore[no-any-return]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ids; special tokens are omitted unless `special`."""
        return self.inner.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)  # type: ignore[no-any-return]

    def context(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """Return the end of a prompt, on which the decoding of the following tokens depends.

        Many tokenizers omit the space before the first decoded token, or join it to the previous one. The returned end
        includes some tokens that decode to text, if the prompt has any, and does not begin within a character.
        """
        visible = 0
        for start in range(len(prompt) - 1, -1, -1):
            visible += prompt[start] not in self._special
            if visible < _CONTEXT or _BYTE.fullmatch(self.token(prompt[start])):
                continue
            if not self.decode(prompt[start:]).startswith(REPLACEMENT):
                return tuple(prompt[start:])
        return tuple(prompt)

    def chat(self, form: ChatFormat) -> Renderer:
        """See `pipeline.types.Tokenizer`."""
        return renderer(self.inner, form)

    def token(self, token_id: int) -> str:
        """Return the token of an id as it is in the vocabulary, e.g. `<|endoftext|>`."""
        token = self.inner.convert_ids_to_tokens(token_id)
        return token if isinstance(token, str) else str(token_id)

    def special_id(self, text: str) -> int | None:
        """Return the id of the special token with this text; None if there is none."""
        return self._special_names.get(text)

    def has_special(self, text: str) -> bool:
        """Whether a text contains a special token."""
        return any(name in text for name in self._special_names)

    @cached_property
    def _special_names(self) -> dict[str, int]:
        return {self.token(i): i for i in self._special}


def load_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """Load the tokenizer in a folder; no code from the folder is run.

    Raises:
        ModelRefused: If transformers cannot load it.
    """
    import_libraries()
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    try:
        inner = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        return Tokenizer(inner, vocab_size)
    except BaseException as error:  # of whatever kind; what is compiled raises plain ones, or panics
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise ModelRefused(
            f"{directory}: the tokenizer cannot be loaded: {' '.join(str(error).split())[:200]}"
        ) from error


def end_tokens(named: frozenset[int], tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids that end a text: those of the model's configuration, and the tokenizer's own.

    Ids that the model does not have are dropped with a warning; a warning also says if no id is left.
    """
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    found = frozenset(i for i in (*named, *own) if 0 <= i < tokenizer.vocab_size)
    beyond = sorted(i for i in named - found if i >= 0)
    if beyond:
        logger.warning(
            "the model's configuration names the end token %d, which it does not have: it has ids 0 to %d",
            beyond[0], tokenizer.vocab_size - 1,
        )  # fmt: skip
    if not found:
        logger.warning(
            "neither the model's configuration nor the tokenizer names an end token: every text goes on until "
            "sampling.max_tokens, unless sampling.stop or sampling.stop_token_ids ends it"
        )
    return found
