"""Structured output: which tokens let a text match a regex, a choice or a JSON Schema, and when it is complete.

llguidance does the matching; it is imported for the first grammar.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.bits import WORD, forbid
from pipeline.engine.rules.schema_patterns import check_patterns
from pipeline.errors import ConfigurationError, ModelRefused
from pipeline.types import SamplingParams
from pipeline.wording import shortened

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

_REMEMBERED = 1024
_WALKS, _WALK_BYTES = 6, 160
"""Random texts that are tried on a grammar before it is accepted, and the most bytes of each."""
_HEAD = '%llguidance {"no_forcing": true}\n'
"""Allows all tokens that spell a text, not only the tokenizer's own choice."""


def check_grammar(sampling: SamplingParams) -> None:
    """Check that the regex, choice or JSON Schema can be followed, as far as a vocabulary of single bytes can show that.

    Raises:
        ValueError: If not; the message names the field and the reason, in one line.
        ConfigurationError: If the library is not installed.
    """
    if sampling.json_schema is not None:
        check_patterns(json.loads(sampling.json_schema))
    found = _grammar(sampling)
    if found is not None:
        matcher = _compile(*found, _single_bytes())
        matcher.inner.compute_bitmask()
        if matcher.error is not None:
            raise ValueError(matcher.error)
        _look_for_dead_ends(matcher)


def require_library(name: str) -> None:
    """Raise a `ConfigurationError` that says how to install llguidance, if it is not installed."""
    try:
        import llguidance  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            f"sampling.{name}: needs the llguidance package (the extra `structured`): pip install llguidance"
        ) from None


def _look_for_dead_ends(matcher: Matcher) -> None:
    """Follow a grammar at random a few times to find states from which its end cannot be reached."""
    draw = random.Random(0)
    for _ in range(_WALKS):
        inner, text = matcher.inner.deep_copy(), bytearray()
        for _ in range(_WALK_BYTES):
            bits = np.frombuffer(inner.compute_bitmask(), np.uint8)
            permitted = np.flatnonzero(np.unpackbits(bits, bitorder="little")[:256])
            if not len(permitted):
                if not inner.is_accepting() and "NoExtensionBias" in inner.get_error():
                    told = text.decode(errors="replace")
                    raise ValueError(
                        f"{matcher.name}: llguidance cannot follow it: it permits {told!r}, and nothing can come next"
                    )
                break
            byte = draw.choice(permitted.tolist())
            if not inner.consume_token(byte) or inner.is_stopped():
                break
            text.append(byte)


def _grammar(sampling: SamplingParams) -> tuple[str, str] | None:
    """Return (field, its grammar in llguidance's syntax) of the constraint on the text; None without one."""
    name = sampling.structured
    if name is None:
        return None
    require_library(name)
    from llguidance import regex_to_lark

    if name == "json_schema":
        return name, f"{_HEAD}start: %json {sampling.json_schema}"
    # a choice as a regex: faster than a grammar with one rule per text
    pattern = sampling.regex or "|".join(map(re.escape, sampling.choice))
    return name, f"{_HEAD}start: /{regex_to_lark(pattern, '')}/"


def _compile(name: str, grammar: str, vocabulary: LLTokenizer) -> Matcher:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False)  # the library's defaults, which apply to grammars from anywhere
    return Matcher(name, LLMatcher(vocabulary, grammar, log_level=0, limits=limits))


@functools.cache
def _single_bytes() -> LLTokenizer:
    """Return a vocabulary that spells every text: one token per byte, and one for the end."""
    from llguidance import LLTokenizer, TokenizerWrapper

    class Bytes:
        eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
        tokens = (*(bytes([b]) for b in range(256)), b"<end>")

        def __call__(self, text: bytes) -> list[int]:
            return list(text)

    return LLTokenizer(TokenizerWrapper(Bytes()))


def _reason(message: str) -> str:
    """Extract the reason from llguidance's message, which has several lines and marks the place."""
    drawn = re.search(r"^error: (.+)$", message, re.MULTILINE)
    line = drawn[1] if drawn else message.partition("\n")[0].rpartition("(in regex): ")[2]
    line = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", line)
    return shortened(line, 160)


class Matcher:
    """Follows one completion through its grammar."""

    def __init__(self, name: str, inner: LLMatcher) -> None:
        """Start at the beginning; `name` is the field that the grammar comes from."""
        self.name, self.inner = name, inner

    def advance(self, token: int) -> bool:
        """Consume the generated token, and return whether the text is complete: it matches, and nothing can follow."""
        self.inner.consume_token(token)
        return self.accepting and self.inner.is_stopped()

    @property
    def accepting(self) -> bool:
        """Whether the text so far matches."""
        return self.inner.is_accepting()

    @property
    def error(self) -> str | None:
        """The reason why the grammar cannot be followed further, such as a limit of the library; None if it can."""
        if not self.inner.is_error():
            return None
        why = _reason(self.inner.get_error())
        # the vocabulary spells none of the texts that the grammar still allows
        return f"{self.name}: {'no text that the tokens can spell matches' if why == 'NoExtensionBias' else why}"


class Grammars:
    """Compiles grammars for a model's vocabulary, each once, and computes masks.

    A matcher is a copy of an unused one, so the tokens that it allows are a pure function of the grammar and its own tokens.

    Args:
        tokenizer: The model's tokenizer.
        vocab_size: Number of logits per position.
        eos_token_ids: Ids that end a text; no grammar allows them by itself.
        threads: CPU threads for the masks of a step.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Iterable[int], threads: int) -> None:
        """Start without importing the library."""
        self._tokenizer, self._vocab_size, self._threads = tokenizer, vocab_size, threads
        self._eos = sorted(i for i in eos_token_ids if i < vocab_size)
        self._compiled: dict[tuple[object, ...], Matcher] = {}
        self._library: tuple[LLTokenizer, LLExecutor] | None = None

    def start(self, sampling: SamplingParams) -> Matcher | None:
        """Return a matcher for a new completion, or None if its text is not constrained.

        Raises:
            ConfigurationError: If the library is not installed.
            ModelRefused: If the library cannot use the tokenizer.
        """
        if sampling.structured is None:
            return None
        key = (sampling.regex, sampling.json_schema, *sampling.choice)
        if key not in self._compiled:
            if len(self._compiled) >= _REMEMBERED:
                self._compiled.clear()
            found = _grammar(sampling)
            assert found is not None
            self._compiled[key] = _compile(*found, self._loaded()[0])
        fresh = self._compiled[key]
        return Matcher(fresh.name, fresh.inner.deep_copy())

    def check(self, sampling: SamplingParams) -> None:
        """Check that the library can use the tokenizer, if the text is constrained.

        Raises:
            ValueError: If it cannot.
            ConfigurationError: If the library is not installed.
        """
        if sampling.structured is not None:
            require_library(sampling.structured)
            try:
                self._loaded()
            except ModelRefused as error:
                raise ValueError(f"{sampling.structured}: {str(error).partition(': ')[2]}") from error

    def masks(self, matchers: Sequence[Matcher]) -> NDArray[np.int32]:
        """Return whether each token may come next as text; the matchers must be distinct.

        Returns:
            [matchers, ⌈V / 32⌉]: a bit per token, the lowest first; see `bits`. All are 0 where only an end, or nothing,
            may come. Bits beyond the vocabulary mean nothing.
        """
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

        vocabulary, executor = self._loaded()
        bits = allocate_token_bitmask(len(matchers), vocabulary.vocab_size)
        fill_next_token_bitmask_par(executor, [(m.inner, i) for i, m in enumerate(matchers)], bits)
        masks = bits.view(np.int32)[:, : -(-self._vocab_size // WORD)]
        # the library allows end tokens where a text may end; which tokens end it is decided by the other rules
        forbid(masks, [t for t in vocabulary.eos_tokens if t < self._vocab_size])
        return masks

    def _loaded(self) -> tuple[LLTokenizer, LLExecutor]:
        if self._library is None:
            from llguidance import LLExecutor
            from llguidance.hf import from_tokenizer

            inner = self._tokenizer.inner
            known = len(inner)
            ends = [i for i in self._eos if i < known] or inner.all_special_ids[:1]
            try:
                vocabulary = from_tokenizer(inner, max(self._vocab_size, known), ends)
            except Exception as error:  # the library raises several kinds
                what = " ".join(str(error).split())[:80]
                raise ModelRefused(
                    "sampling: this tokenizer cannot be used for structured output, which needs one whose tokens are bytes, "
                    f"or that falls back on them: {what}"
                ) from error
            self._library = vocabulary, LLExecutor(self._threads)
        return self._library
