"""What may come next and how likely, in float64, by transformers' own processors and, for grammars, by trying every token."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import regex
import torch
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pipeline.types import SamplingParams
from tests.engine.small.tiny_models import END, _spelled, byte_tokenizer

Array = np.ndarray[Any, np.dtype[Any]]
Processors = list[LogitsProcessor]


@functools.cache
def token_bytes() -> dict[int, bytes]:
    """What each token of the byte tokenizer stands for, its end token aside."""
    letters = {_spelled(bytes([b])): b for b in range(256)}
    vocabulary = byte_tokenizer().get_vocab()
    return {i: bytes(letters[c] for c in piece) for piece, i in vocabulary.items() if i != END}


def matches(sampling: SamplingParams, text: bytes) -> bool:
    """Whether a whole text is as the parameters say; the regex has to be of ASCII."""
    if sampling.choice:
        return text in [c.encode() for c in sampling.choice]
    assert sampling.regex is not None
    return regex.fullmatch(sampling.regex.encode(), text) is not None


def may_match(sampling: SamplingParams, text: bytes) -> bool:
    """Whether a text is one that matches, or the beginning of one."""
    if sampling.choice:
        return any(c.encode().startswith(text) for c in sampling.choice)
    assert sampling.regex is not None
    return regex.fullmatch(sampling.regex.encode(), text, partial=True) is not None


def ends_of(sampling: SamplingParams) -> list[int]:
    return sorted({*sampling.stop_token_ids, *(() if sampling.ignore_eos else (END,))})


def permitted(sampling: SamplingParams, generated: Sequence[int], vocab: int) -> Array:
    """Tokens that the grammar lets come next, by trying each, and end tokens where the text may end, bool [V]."""
    text = b"".join(token_bytes()[t] for t in generated)
    mask = np.zeros(vocab, bool)
    for token, piece in token_bytes().items():
        mask[token] = may_match(sampling, text + piece)
    if matches(sampling, text):
        mask[ends_of(sampling)] = True
    return mask


def bad_word_ids(words: Sequence[str]) -> list[list[int]]:
    bare = [word.lstrip(" ") or word for word in words]
    return [byte_tokenizer().encode(space + w, add_special_tokens=False) for w in bare for space in ("", " ")]


def forbidden(sequences: Sequence[Sequence[int]], generated: Sequence[int], vocab: int) -> Array:
    """Tokens that transformers forbids, bool [V]. It looks for a sequence only where a token stands before it."""
    processor = NoBadWordsLogitsProcessor([list(s) for s in sequences])
    scores = processor(torch.tensor([[END, *generated]]), torch.zeros(1, vocab, dtype=torch.float64))
    return (scores[0] == -torch.inf).numpy()


def constrained(logits: Array, prompt: Sequence[int], generated: Sequence[int], sampling: SamplingParams) -> Array:
    """Masks, bias and penalties on the float64 logits [V] of one position, in vLLM's order."""
    scores = torch.tensor(logits, dtype=torch.float64)[None]
    ids = torch.tensor([[*prompt, *generated]])
    if sampling.structured:
        scores[0, ~torch.from_numpy(permitted(sampling, generated, len(logits)))] = -torch.inf
    if sampling.bad_words:
        mask = forbidden(bad_word_ids(sampling.bad_words), generated, len(logits))
        scores[0, torch.from_numpy(mask)] = -torch.inf
    rules: Processors = []
    if sampling.min_tokens and ends_of(sampling):
        rules.append(MinNewTokensLengthLogitsProcessor(len(prompt), sampling.min_tokens, ends_of(sampling)))
    if sampling.logit_bias:
        biases: list[list[list[int] | float]] = [[[t], b] for t, b in sampling.logit_bias]
        rules.append(SequenceBiasLogitsProcessor(biases))
    if sampling.repetition_penalty != 1:
        rules.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    for rule in rules:
        scores = rule(ids, scores)
    counts = np.bincount(np.array(generated, int), minlength=len(logits))
    done: Array = scores[0].numpy()
    return done - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)


def distribution(logits: Array, prompt: Sequence[int], generated: Sequence[int], sampling: SamplingParams) -> Array:
    """Probabilities [V] of the next token, float64."""
    scores = torch.from_numpy(constrained(logits, prompt, generated, sampling))[None]
    rules: Processors = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.min_p:
        rules.append(MinPLogitsWarper(sampling.min_p))
    if sampling.top_k:
        rules.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        rules.append(TopPLogitsWarper(sampling.top_p))
    for rule in rules:
        scores = rule(torch.tensor([[0]]), scores)
    assert scores.dtype == torch.float64
    return torch.softmax(scores[0], -1).numpy()
