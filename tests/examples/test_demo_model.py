"""The demo grammar's probabilities are exact, and the demo model and prompts are what they should be."""

from __future__ import annotations

import importlib
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = EXAMPLES / "demo-model"

# The examples are scripts that import their neighbours by name; they find them as they do when they are run.
sys.path.insert(0, str(EXAMPLES))
try:
    grammar = importlib.import_module("grammar")
    make_demo = importlib.import_module("make_demo")
    nodes = importlib.import_module("nodes")
    score = importlib.import_module("score")
    wording = importlib.import_module("wording")
    GRAMMAR = importlib.import_module("topics").GRAMMAR
finally:
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The committed tokenizer."""
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model() -> Any:
    """The committed model."""
    return AutoModelForCausalLM.from_pretrained(MODEL)  # in evaluation mode, as from_pretrained leaves it


@pytest.fixture(scope="module")
def prompts() -> list[dict[str, str]]:
    """The rows of the committed prompts."""
    rows: list[dict[str, str]] = pq.read_table(EXAMPLES / "prompts.parquet").to_pylist()
    return rows


def small_grammar() -> Any:
    """A grammar of two topics and few documents, with agreement and a weighted, optional ending."""
    animal = wording.pick(
        wording.option("cat", 3, kind="cat", sound="meows"), wording.option("dog", kind="dog", sound="barks")
    )
    habit = wording.switch("kind", cat=wording.pick(" by day", wording.option(" by night", 4)), dog="")
    first = wording.seq("The ", animal, " {sound}", habit, ".", wording.maybe(" Good {kind}!", 0.5))
    return grammar.Grammar({"animals": first, "greetings": wording.pick("Hello.", "Goodbye.", "Hello, dog.")})


def enumerate_texts(
    stack: tuple[Any, ...], features: Mapping[str, str], probability: float
) -> Iterator[tuple[str, float]]:
    """Yield every text of a small grammar with its probability, by plain expansion from the left."""
    if not stack:
        yield "", probability
        return
    node, rest = stack[0], stack[1:]
    if isinstance(node, nodes.Text):
        for text, value in enumerate_texts(rest, features, probability):
            yield node.template.format(**features) + text, value
    elif isinstance(node, nodes.Sequence):
        yield from enumerate_texts((*node.parts, *rest), features, probability)
    elif isinstance(node, nodes.Switch):
        yield from enumerate_texts((node.cases[features[node.feature]], *rest), features, probability)
    else:
        for option in node.options:
            bound = {**features, **option.features}
            yield from enumerate_texts((option.body, *rest), bound, probability * option.probability)


def expected_texts(small: Any) -> dict[str, float]:
    """Return the probability of every text of a small grammar, its topic drawn with equal probabilities."""
    share = 1 / len(small.topics)
    return {text: value for root in small.topics.values() for text, value in enumerate_texts((root,), {}, share)}


def test_small_grammar_agrees_with_enumeration() -> None:
    """Parsing and the entropy recursion give what plain enumeration gives."""
    small = small_grammar()
    expected = expected_texts(small)
    assert len(expected) == 9
    assert expected["The cat meows by night. Good cat!"] == pytest.approx(1 / 2 * 3 / 4 * 4 / 5 * 1 / 3)
    assert math.fsum(expected.values()) == pytest.approx(1.0, abs=1e-12)
    for text, probability in expected.items():
        assert small.log_probability(text) == pytest.approx(math.log(probability), abs=1e-12)
    assert small.entropy() == pytest.approx(-sum(p * math.log(p) for p in expected.values()), abs=1e-12)
    assert small.entropy("greetings") == pytest.approx(math.log(3), abs=1e-12)


def test_small_grammar_beginnings() -> None:
    """The probability of a beginning is that of all documents which start with it."""
    small = small_grammar()
    expected = expected_texts(small)
    for beginning in ("", "T", "The cat meows by", "Hello", "Hello.", "The dog barks. Go"):
        total = math.fsum(value for text, value in expected.items() if text.startswith(beginning))
        assert small.log_probability(beginning, beginning=True) == pytest.approx(math.log(total), abs=1e-12)
    assert small.log_probability("The dog meows", beginning=True) == -math.inf
    assert small.log_probability("Hello") == -math.inf


def test_small_grammar_sampling_frequencies() -> None:
    """Texts are drawn as often as their probabilities say (within five standard errors)."""
    small = small_grammar()
    rng = random.Random(5)
    count = 20_000
    counts = Counter(small.sample(rng).text for _ in range(count))
    expected = expected_texts(small)
    assert counts.keys() <= expected.keys()
    for text, probability in expected.items():
        assert abs(counts[text] / count - probability) < 5 * math.sqrt(probability * (1 - probability) / count)


def test_choice_refuses_what_is_no_distribution() -> None:
    """Probabilities must be positive and sum to one."""
    body = nodes.Text("x")
    for probabilities in ((), (0.5, 0.4), (1.5, -0.5)):
        with pytest.raises(ValueError, match="no distribution"):
            nodes.Choice(tuple(nodes.Option(probability, body, {}) for probability in probabilities))


def test_demo_grammar_is_unambiguous_and_exact() -> None:
    """Every sampled document has one derivation, and it has the log-probability that the sampler gave."""
    rng = random.Random(6)
    for topic in GRAMMAR.topics:
        for _ in range(200):
            document = GRAMMAR.sample(rng, topic)
            assert list(GRAMMAR.derivations(document.text)) == [pytest.approx(document.log_probability, abs=1e-9)]
            assert GRAMMAR.log_probability(document.text) == pytest.approx(document.log_probability, abs=1e-9)
            assert document.topic == topic


def test_demo_grammar_entropy_is_the_mean_surprise() -> None:
    """The exact entropy lies within four standard errors of the mean of -log p, overall and per topic."""
    rng = random.Random(7)
    count = 2000
    for topic in (None, *GRAMMAR.topics):
        given = 0.0 if topic is None else math.log(len(GRAMMAR.topics))
        surprises = [-GRAMMAR.sample(rng, topic).log_probability - given for _ in range(count)]
        error = statistics.stdev(surprises) / math.sqrt(count)
        assert abs(statistics.fmean(surprises) - GRAMMAR.entropy(topic)) < 4 * error


def test_files(model: Any, tokenizer: Any) -> None:
    """The model is small, in float32, tied, and names its end token; no file tells where it was made."""
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in MODEL.iterdir()} == names
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 4_000_000
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.transformer.wte.weight
    assert tokenizer.is_fast
    assert len(tokenizer) == model.config.vocab_size
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for settings in (model.config, model.generation_config, tokenizer):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (end, end, end)
    for path in MODEL.glob("*.json"):
        assert not {"_name_or_path", "name_or_path"} & set(path.read_text(encoding="utf-8").split('"'))


def test_tokenizer_keeps_any_text(tokenizer: Any) -> None:
    """Bytes fall back to bytes, nothing is added, and documents are at most 100 tokens long."""
    for text in ("The weather in Ashford", " two  spaces\n\ttab", "naïve café, 東京 🚂", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    documents = make_demo.held_out(GRAMMAR, 500)
    assert max(len(tokenizer(document.text)["input_ids"]) for document in documents) <= 100


def test_perplexity_is_near_the_grammars(model: Any, tokenizer: Any) -> None:
    """On documents that the training never drew, the model's perplexity is within 3 % of the grammar's own."""
    comparison = score.compare(model, tokenizer, make_demo.held_out(GRAMMAR, 500))
    assert comparison.grammar_perplexity == pytest.approx(1.34, abs=0.02)
    assert 0.995 < comparison.ratio < 1.03


def test_prompts(prompts: list[dict[str, str]]) -> None:
    """There are 64 prompts, all different, eight of each topic, and each begins a document of its topic."""
    assert [set(row) for row in prompts] == [{"id", "prompt", "topic"}] * 64
    assert len({row["id"] for row in prompts}) == 64
    assert len({row["prompt"] for row in prompts}) == 64
    assert Counter(row["topic"] for row in prompts) == dict.fromkeys(GRAMMAR.topics, 8)
    for row in prompts:
        alone = grammar.Grammar({row["topic"]: GRAMMAR.topics[row["topic"]]})
        assert alone.log_probability(row["prompt"], beginning=True) > -math.inf
    assert make_demo.make_prompts(GRAMMAR).to_pylist() == prompts


@pytest.mark.parametrize(("sampled", "share"), [(False, 0.95), (True, 0.7)])
def test_texts_end_and_are_documents(
    model: Any, tokenizer: Any, prompts: list[dict[str, str]], *, sampled: bool, share: float
) -> None:
    """Continuations of the prompts end before 128 tokens; most are documents of the grammar, word for word."""
    tokenizer.padding_side = "left"
    batch = tokenizer([row["prompt"] for row in prompts], padding=True, return_tensors="pt")
    torch.manual_seed(8)
    produced = model.generate(**batch, max_new_tokens=128, do_sample=sampled, top_k=None)
    new = produced[:, batch["input_ids"].shape[1] :]
    assert (new == tokenizer.eos_token_id).any(dim=1).float().mean().item() >= 0.98
    texts = [
        row["prompt"] + tokenizer.decode(tokens, skip_special_tokens=True)
        for row, tokens in zip(prompts, new, strict=True)
    ]
    derivable = sum(GRAMMAR.log_probability(text) > -math.inf for text in texts)
    assert derivable >= share * len(texts)
