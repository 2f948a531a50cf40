"""Make the demo model and its prompts: ``python examples/make_demo.py``.

Writes ``demo-model/`` and ``prompts.parquet`` beside this file, and prints how near the model came to the grammar.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerFast

from grammar import Document, Grammar
from score import Comparison, compare
from topics import GRAMMAR
from train import train_model, train_tokenizer

__all__ = ["HELD_OUT_SEED", "held_out", "main", "make_prompts"]

TRAINING_SEED = 1
PROMPT_SEED = 2
HELD_OUT_SEED = 3


def held_out(grammar: Grammar, count: int) -> list[Document]:
    """Return ``count`` documents drawn with a seed that training does not use."""
    rng = random.Random(HELD_OUT_SEED)
    return [grammar.sample(rng) for _ in range(count)]


def make_prompts(grammar: Grammar, *, seed: int = PROMPT_SEED, per_topic: int = 8) -> pa.Table:
    """Draw prompts, each the first three to seven words of a sampled document and none twice.

    Args:
        grammar: Where the documents come from.
        seed: Seed of the documents and of the prompts' lengths.
        per_topic: Number of prompts of each topic.

    Returns:
        A table with the string columns ``id`` (such as "weather-03"), ``prompt`` and ``topic``.
    """
    rng = random.Random(seed)
    rows: list[dict[str, str]] = []
    for topic in grammar.topics:
        prompts: dict[str, None] = {}  # a dict keeps the order in which the prompts were drawn
        while len(prompts) < per_topic:
            words = grammar.sample(rng, topic).text.split(" ")
            prompts[" ".join(words[: rng.randint(3, 7)])] = None
        rows += [{"id": f"{topic}-{k:02d}", "prompt": prompt, "topic": topic} for k, prompt in enumerate(prompts)]
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in ("id", "prompt", "topic")]))


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a tokenizer so that old and new versions of transformers load it.

    Args:
        tokenizer: The tokenizer.
        folder: Where ``tokenizer.json`` and ``tokenizer_config.json`` go.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # Version 5 writes its own new name for this class, which version 4 does not know; both know the older name.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def report(comparison: Comparison, parameters: int, minutes: float) -> Iterator[str]:
    """Yield the lines of the closing table.

    Args:
        comparison: The scores of the held-out documents.
        parameters: Number of the model's parameters.
        minutes: What the training took.
    """
    yield f"{'parameters':34}{parameters:>12,}"
    yield f"{'training, minutes':34}{minutes:>12.1f}"
    yield f"{'held-out documents':34}{comparison.documents:>12,}"
    yield f"{'held-out tokens':34}{comparison.tokens:>12,}"
    yield f"{'perplexity per token, model':34}{comparison.model_perplexity:>12.4f}"
    yield f"{'perplexity per token, grammar':34}{comparison.grammar_perplexity:>12.4f}"
    yield f"{'ratio':34}{comparison.ratio:>12.4f}"


def main() -> None:
    """Train, score and write everything."""
    parser = argparse.ArgumentParser(description="Make the demo model and its prompts.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the files go")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--documents", type=int, default=2000, help="held-out documents to score")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    began = time.monotonic()
    tokenizer = train_tokenizer(GRAMMAR, seed=TRAINING_SEED)
    model = train_model(GRAMMAR, tokenizer, seed=TRAINING_SEED, steps=options.steps)
    minutes = (time.monotonic() - began) / 60

    model.save_pretrained(options.folder / "demo-model")
    (options.folder / "demo-model" / "model.safetensors").chmod(0o644)  # it is made readable by its owner only
    save_tokenizer(tokenizer, options.folder / "demo-model")
    pq.write_table(make_prompts(GRAMMAR), options.folder / "prompts.parquet")
    comparison = compare(model, tokenizer, held_out(GRAMMAR, options.documents))
    print(*report(comparison, model.num_parameters(), minutes), sep="\n")


if __name__ == "__main__":
    main()
