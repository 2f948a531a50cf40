"""A tokenizer of Llama 2's kind, from transformers' own class: words begin with their space, which the first one loses."""

from __future__ import annotations

import functools
from typing import Any

from transformers import LlamaTokenizer

WORDS = ["\u2581Hello", "\u2581world", "\u2581yes", "\u2581no"]


@functools.cache
def llama_tokenizer(add_bos: bool = False) -> Any:
    """<unk>, <s>, </s>, all bytes, an instruction's mark, which is special, some words and the letters they are made of."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", *"Helowrdyns"]
    merges = []
    for word in WORDS:
        for length in range(2, len(word) + 1):
            names += [word[:length]] if word[:length] not in names else []
            merges.append((word[: length - 1], word[length - 1]))
    inner = LlamaTokenizer(vocab={n: i for i, n in enumerate(names)}, merges=merges, add_bos_token=add_bos)
    inner.add_special_tokens({"additional_special_tokens": ["[/INST]"]})
    return inner
