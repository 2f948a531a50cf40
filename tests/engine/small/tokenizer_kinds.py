"""Small tokenizers of the kinds that spell a space in another way than bytes do, built with the `tokenizers` package."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import Tokenizer as Rust
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.engine.small.llama_like import llama_tokenizer
from tests.engine.small.tiny_models import byte_tokenizer

SPACE = "\u2581"
LETTERS = [*"Helowrdysnabcfg{}\":.,'019"]
WORDS = ["Hello", "world", "yes", "no", "a", "b"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def _numbered(*names: str) -> dict[str, int]:
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _wrapped(rust: Rust, decoder: Any, **special: str) -> Any:
    rust.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=rust, **special)


def _spelled_with_space(decoder: Any, before: Any = None, normalizer: Any = None) -> Any:
    """SentencePiece's BPE with byte fallback: a word's first letter is its space."""
    names, merges = ["<unk>", "<s>", "</s>", *BYTES, SPACE, *LETTERS], []
    for word in (SPACE + word for word in WORDS):
        names += [word[:end] for end in range(2, len(word) + 1)]
        merges += [(word[: end - 1], word[end - 1]) for end in range(2, len(word) + 1)]
    model = models.BPE(
        vocab=_numbered(*names), merges=list(dict.fromkeys(merges)), unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )  # fmt: skip
    rust = Rust(model)
    if before is not None:
        rust.pre_tokenizer = before
    if normalizer is not None:
        rust.normalizer = normalizer
    return _wrapped(rust, decoder, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _metaspace(scheme: str) -> Any:
    after = [decoders.ByteFallback(), decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)]
    before = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    return _spelled_with_space(decoders.Sequence(after), before)


def _replaced(*, prefix: bool) -> Any:
    """As Llama 2's and Gemma's own files have it: the space is put by a normaliser, and Llama's taken off by a decoder."""
    steps = [normalizers.Replace(" ", SPACE)]
    after = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        return _spelled_with_space(
            decoders.Sequence([*after, decoders.Strip(" ", 1, 0)]),
            normalizer=normalizers.Sequence([normalizers.Prepend(SPACE), *steps]),
        )
    return _spelled_with_space(decoders.Sequence(after), normalizer=steps[0])


def _unigram() -> Any:
    """T5's kind."""
    names = [*LETTERS, SPACE, *(SPACE + word for word in WORDS)]
    scores: Iterable[tuple[str, float]] = [(name, -1.0 - 2 * (len(name) == 1)) for name in dict.fromkeys(names)]
    rust = Rust(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scores], unk_id=2))
    rust.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    return _wrapped(rust, decoder, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


def _wordpiece(*, cleanup: bool) -> Any:
    """BERT's kind: `##` joins a piece to the one before."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *("##" + letter for letter in LETTERS), *WORDS, "##rld"]
    rust = Rust(models.WordPiece(_numbered(*names), unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    return _wrapped(rust, decoders.WordPiece(prefix="##", cleanup=cleanup), **special)


def _suffixed() -> Any:
    """The first GPT's kind: `</w>` ends a word."""
    names = ["<unk>", "</s>", *LETTERS, *(letter + "</w>" for letter in LETTERS), "ye", "yes</w>", "no</w>"]
    merges = [("y", "e"), ("ye", "s</w>"), ("n", "o</w>")]
    rust = Rust(models.BPE(vocab=_numbered(*names), merges=merges, unk_token="<unk>", end_of_word_suffix="</w>"))
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _wrapped(rust, decoders.BPEDecoder(suffix="</w>"), unk_token="<unk>", eos_token="</s>")


def _bytes_behind_a_space() -> Any:
    """RoBERTa's kind: bytes, and a space before every text."""
    inner = byte_tokenizer()
    rust = Rust.from_str(inner.backend_tokenizer.to_str())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return _wrapped(rust, decoders.ByteLevel(), bos_token="<|end|>", eos_token="<|end|>")


FOLLOWED: dict[str, Callable[[], Any]] = {
    "llama": functools.partial(llama_tokenizer, add_bos=True), "llama-file": functools.partial(_replaced, prefix=True),
    "gemma-file": functools.partial(_replaced, prefix=False), "metaspace-first": functools.partial(_metaspace, "first"),
    "metaspace-always": functools.partial(_metaspace, "always"), "metaspace-never": functools.partial(_metaspace, "never"),
    "bytes-behind-a-space": _bytes_behind_a_space,
}  # fmt: skip
"""Those that structured output can use."""
OTHERS: dict[str, Callable[[], Any]] = {
    "unigram": _unigram, "wordpiece": functools.partial(_wordpiece, cleanup=False),
    "wordpiece-cleanup": functools.partial(_wordpiece, cleanup=True), "suffix": _suffixed,
}  # fmt: skip
"""Those that it refuses."""


@functools.cache
def made(kind: str) -> Any:
    """The tokenizer of a kind, made once."""
    return (FOLLOWED | OTHERS)[kind]()
