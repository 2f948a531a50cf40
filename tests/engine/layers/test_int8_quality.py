"""What int8 costs: the perplexity of the demo model on documents of its grammar, through the engine."""

from __future__ import annotations

import functools
import importlib
import math
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.assembly import build_engine
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.model.files.checkpoint import resolve
from tests.engine.small.tiny_models import DEMO, drain, request

EXAMPLES = Path(__file__).parents[3] / "examples"
DOCUMENTS = 250
END = 0


@functools.cache
def documents() -> list[str]:
    """Documents drawn with a seed that the model's training did not use."""
    sys.path.insert(0, str(EXAMPLES))  # the examples are scripts that import their neighbours by name
    try:
        grammar = importlib.import_module("topics").GRAMMAR
    finally:
        sys.path.remove(str(EXAMPLES))
    rng = random.Random("int8")
    return [grammar.sample(rng).text for _ in range(DOCUMENTS)]


@functools.cache
def nats_per_token(**options: Any) -> float:
    """Mean negative log-probability of the documents' tokens, their ends included."""
    model = ModelConfig(path=str(DEMO), **options)
    built = build_engine(resolve(model), model, EngineConfig(), StatsConfig(prompt_logprobs=True))
    texts = [[END, *ids, END] for ids in built.tokenizer.encode_batch(documents())]
    done = drain(built.engine, [request(f"row-{i}", ids, max_tokens=1) for i, ids in enumerate(texts)])
    scores = [done[f"row-{i}", 0].prompt_token_logprobs[1:] for i in range(len(texts))]
    assert sum(map(len, scores)) == sum(map(len, texts)) - len(texts)
    return -sum(math.fsum(s) for s in scores) / sum(map(len, scores))


def test_float32_scores_as_it_should() -> None:
    """What examples/README.md says of 2000 other documents."""
    assert math.exp(nats_per_token()) == pytest.approx(1.347, rel=0.01)


def test_int8_costs_one_percent_of_perplexity_at_most() -> None:
    ratio = math.exp(nats_per_token(quantization="int8") - nats_per_token())
    assert 0.99 < ratio < 1.01 and ratio != 1


def test_bfloat16_costs_one_percent_of_perplexity_at_most() -> None:
    ratio = math.exp(nats_per_token(dtype="bfloat16") - nats_per_token())
    assert 0.99 < ratio < 1.01 and ratio != 1


@pytest.mark.parametrize("cache", ["bfloat16", "int8"])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_smaller_cache_costs_one_percent_of_perplexity_at_most(quantization: str, cache: str) -> None:
    ratio = math.exp(nats_per_token(quantization=quantization, kv_cache_dtype=cache) - nats_per_token())
    assert 0.99 < ratio < 1.01 and ratio != 1
