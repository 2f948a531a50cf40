"""Both engines against transformers' `generate`, token for token."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.engine.base import Engine
from pipeline.types import Completion, ErrorCode, FinishReason, PromptRow, Request, SamplingParams
from tests.engine.small.tiny_models import CONTEXT, END, FAMILIES, Tiny, bits, drain, random_prompts, request

MakeTiny = Callable[..., Tiny]
MAX_LEN = 100
LENGTHS = [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 20, 24, 27, 30, 31, 32, 33, 34, 36, 40, 47, 48, 55, 60, 62, 63, 64, 65, 66]
LENGTHS += [70, 75, 80, 85, 90, 94, 95, 96, 97, 98, 99]
PROMPTS = random_prompts(1, LENGTHS)
NEW = 10
RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # our parameters, and generate's for the same thing
    "plain": ({"ignore_eos": True}, {}),
    "eos": ({}, {"eos_token_id": END}),
    "penalty": ({"ignore_eos": True, "repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
    "stop_ids": (
        {"stop_token_ids": list(range(5, 60))}, {"eos_token_id": [END, *range(5, 60)]},
    ),
    "min_tokens": (
        {"stop_token_ids": list(range(5, 100)), "min_tokens": 4},
        {"eos_token_id": [END, *range(5, 100)], "min_new_tokens": 4},
    ),
    "all": (
        {"stop_token_ids": list(range(5, 100)), "min_tokens": 3, "repetition_penalty": 0.8},
        {"eos_token_id": [END, *range(5, 100)], "min_new_tokens": 3, "repetition_penalty": 0.8},
    ),
}  # fmt: skip
Expected = list[tuple[list[int], list[float]]]


def room(prompt: list[int], new: int = NEW) -> int:
    """What the context leaves for new tokens."""
    return min(new, MAX_LEN - len(prompt))


@pytest.fixture(scope="session")
def expected(tiny: MakeTiny) -> Callable[[str], Expected]:
    known: dict[str, Expected] = {}

    def make(rule: str) -> Expected:
        if rule not in known:
            options = dict(RULES[rule][1])
            least = options.pop("min_new_tokens", 0)
            known[rule] = [tiny().generate(p, room(p), min_new_tokens=min(least, room(p)), **options) for p in PROMPTS]
        return known[rule]

    return make


def assert_equal_up_to_ties(completion: Completion, ids: list[int], gaps: list[float]) -> None:
    """The same tokens; from a place on where float32 cannot tell the best two apart, anything."""
    for i, (ours, theirs) in enumerate(zip(completion.token_ids, ids, strict=False)):
        if ours != theirs:
            assert gaps[i] < 1e-4, f"token {i} of {completion.request}: {ours}, not {theirs}"
            return
    assert len(completion.token_ids) == len(ids)


def check(engine: Engine, rule: str, expected: Expected) -> list[Completion]:
    requests = [request(str(i), p, max_tokens=NEW, **RULES[rule][0]) for i, p in enumerate(PROMPTS)]
    done = drain(engine, requests)
    completions = [done[str(i), 0] for i in range(len(PROMPTS))]
    for completion, (ids, gaps) in zip(completions, expected, strict=True):
        assert_equal_up_to_ties(completion, ids, gaps)
    return completions


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("slots", [1, 5, 16])
def test_greedy_ids_are_generates(tiny: MakeTiny, expected: Callable[[str], Expected], rule: str, slots: int) -> None:
    completions = check(tiny().engine(slots, max_len=MAX_LEN), rule, expected(rule))
    reasons = {c.finish_reason for c in completions}
    ends = {END, *RULES[rule][0].get("stop_token_ids", [])} if not RULES[rule][0].get("ignore_eos") else set[int]()
    for c in completions:
        assert (c.finish_reason is FinishReason.STOP) == (c.token_ids[-1] in ends)
        assert not ends & set(c.token_ids[:-1])
    if rule in ("stop_ids", "min_tokens", "all"):
        assert reasons == {FinishReason.STOP, FinishReason.LENGTH}  # or the test would show nothing


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", [1, 7])
def test_the_static_engine_too(tiny: MakeTiny, expected: Callable[[str], Expected], rule: str, batch: int) -> None:
    check(tiny().static(batch, max_len=MAX_LEN), rule, expected(rule))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tiny: MakeTiny, family: str) -> None:
    model = tiny(family)
    prompts = random_prompts(2, [1, 3, 31, 32, 33, 63, 70, 100, 127])
    oracle = [model.generate(p, min(6, CONTEXT - len(p))) for p in prompts]
    requests = [request(str(i), p, max_tokens=6, ignore_eos=True) for i, p in enumerate(prompts)]
    for engine in (model.engine(4, tokens=64), model.static(4)):
        done = drain(engine, requests)
        for i, (ids, gaps) in enumerate(oracle):
            assert_equal_up_to_ties(done[str(i), 0], ids, gaps)


def test_max_tokens_is_clamped_to_what_the_context_leaves(tiny: MakeTiny) -> None:
    (prompt,) = random_prompts(3, [MAX_LEN - 3])
    for engine in (tiny().engine(max_len=MAX_LEN), tiny().static(max_len=MAX_LEN)):
        done = drain(engine, [request("a", prompt, max_tokens=50, min_tokens=40, ignore_eos=True)])["a", 0]
        assert (len(done.token_ids), done.finish_reason) == (3, FinishReason.LENGTH)


def test_an_idle_step_does_nothing(tiny: MakeTiny) -> None:
    for engine in (tiny().engine(), tiny().static()):
        assert engine.step() == []
        assert engine.load() == (0, 0)


def test_load_counts_running_and_waiting(tiny: MakeTiny) -> None:
    engine = tiny().engine(2)
    engine.add([request(str(i), [1, 2], max_tokens=3, ignore_eos=True) for i in range(5)])
    assert engine.load() == (0, 5)
    assert engine.step() == []
    assert engine.load() == (2, 3)


def test_room_is_what_the_running_ones_may_need(tiny: MakeTiny) -> None:
    engine = tiny().engine(2)
    assert (engine.room.max_num_seqs, engine.room.kv_blocks_used) == (2, 0)
    engine.add([request(str(i), [i + 1] * 60, max_tokens=3 + 9 * i, ignore_eos=True) for i in range(3)])
    assert engine.room.kv_blocks_used == 0, "a waiting one has none"
    used = []
    while any(engine.load()):
        engine.step()
        used.append(engine.room.kv_blocks_used)
    # 60 + 21 and 60 + 12 positions are three blocks of 32 each, 60 + 3 two. The longest run first, then the last two together.
    assert list(dict.fromkeys(used)) == [6, 3, 5, 0]
    assert engine.room.kv_blocks >= 6


BAD = 7
"""The token whose embedding is not finite in the spoilt model."""


@pytest.fixture(scope="session")
def spoilt(tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Prompts with BAD give NaN; all others are untouched, as the output layer has weights of its own."""
    folder = shutil.copytree(tiny(tie=0).folder, tmp_path_factory.mktemp("spoilt") / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.wte.weight"][BAD] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return Tiny(folder)


def good_requests(count: int, lengths: tuple[int, ...] = (1, 5, 33, 40, 64, 70)) -> list[Request]:
    """Requests without BAD, in the prompt and, as it is an end token that is forbidden all along, in the completion."""
    prompts = random_prompts(21, [lengths[i % len(lengths)] for i in range(count)])
    clean = [[t if t != BAD else BAD + 1 for t in p] for p in prompts]
    return [
        request(f"good-{i}", p, max_tokens=4 + i % 9, ignore_eos=True, stop_token_ids=[BAD], min_tokens=4 + i % 9)
        for i, p in enumerate(clean)
    ]


def bad_requests(count: int) -> list[Request]:
    prompts = random_prompts(22, [1 + 13 * i % 100 for i in range(count)])
    return [request(f"bad-{i}", [*p[: i % 50], BAD, *p[i % 50 :]], max_tokens=3) for i, p in enumerate(prompts)]


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("tokens", [32, 256])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_fault_7_non_finite_logits_harm_nobody_else(spoilt: Tiny, slots: int, tokens: int, quantization: str) -> None:
    good, bad = good_requests(20), bad_requests(20)
    options: dict[str, Any] = {"quantization": quantization, "prompt_logprobs": True}
    expected = {n: bits(c, prompt=True) for n, c in drain(spoilt.engine(1, **options), good).items()}
    engine = spoilt.engine(slots, tokens=tokens, **options)
    mixed = [r for pair in zip(bad, good, strict=True) for r in pair]
    for company in (mixed, bad, good):  # and afterwards the same slots are as good as new
        done = drain(engine, company)
        for name, completion in done.items():
            if name[0].startswith("bad"):
                assert completion.finish_reason is FinishReason.ERROR
                assert completion.error is not None and completion.error.code is ErrorCode.NONFINITE_LOGITS
                assert completion.text is None and completion.token_ids == () and not completion.statistics
            else:
                assert bits(completion, prompt=True) == expected[name], name


def test_fault_7_a_spoilt_prompt_that_was_moved_in_the_cache_leaves_nothing_behind(spoilt: Tiny) -> None:
    """It is half read when its neighbours end, and moves to the place of one of them."""
    short = [request(f"short-{i}", [20 + i], max_tokens=2, ignore_eos=True) for i in range(7)]
    good = [request(f"good-{i}", p, max_tokens=3, ignore_eos=True) for i, p in enumerate(random_prompts(24, [5] * 8))]
    expected = {n: bits(c) for n, c in drain(spoilt.engine(1), good).items()}
    for bad in ([BAD, *[30] * 63], [BAD, *[30] * 99], [*[30] * 40, BAD, *[30] * 60]):
        engine = spoilt.engine(8, tokens=32)
        engine.add(short)
        engine.add([request("bad", bad)])
        done = [c for _ in range(8) for c in engine.step()]
        assert len(done) == 8 and done[-1].error is not None
        assert {n: bits(c) for n, c in drain(engine, good).items()} == expected


def test_fault_7_in_the_static_engine(spoilt: Tiny) -> None:
    good, bad = good_requests(6), bad_requests(6)
    expected = drain(spoilt.static(4), good)
    done = drain(spoilt.static(4), [r for pair in zip(bad, good, strict=True) for r in pair])
    for name, completion in done.items():
        if name[0].startswith("bad"):
            assert completion.error is not None and completion.error.code is ErrorCode.NONFINITE_LOGITS
        else:
            assert completion.token_ids == expected[name].token_ids


def test_fault_7_where_tokens_are_scored(spoilt: Tiny) -> None:
    good = [replace(r, scored_from=1) for r in good_requests(6) if len(r.prompt_token_ids) > 1]
    bad = [replace(r, prompt_token_ids=(*r.prompt_token_ids, 5), scored_from=1) for r in bad_requests(6)]
    expected = {name: bits(c) for name, c in drain(spoilt.engine(1), good).items()}
    for engine in (spoilt.engine(3, tokens=32), spoilt.engine(3, ahead=True), spoilt.static()):
        for name, completion in drain(engine, [*bad, *good]).items():
            if name[0].startswith("bad"):
                assert completion.error is not None and completion.error.code is ErrorCode.NONFINITE_LOGITS
                assert completion.finish_reason is FinishReason.ERROR and not completion.statistics
            else:
                assert completion.token_ids and (engine.room.kv_blocks == 0 or bits(completion) == expected[name])


def test_fault_7_values_that_overflow(tiny: MakeTiny, tmp_path: Path) -> None:
    """Infinite weights, and a whole model that gives nothing else."""
    folder = shutil.copytree(tiny().folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.1.mlp.c_proj.weight"] *= 1e38
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    rules: list[dict[str, Any]] = [
        {}, {"temperature": 1.0}, {"temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1},
        {"temperature": 1.0, "repetition_penalty": 1.2}, {"min_tokens": 3},
    ]  # fmt: skip
    requests = [request(str(i), p, **rules[i % 5]) for i, p in enumerate(random_prompts(23, [1, 40, 3, 7, 99, 32]))]
    for engine in (Tiny(folder).engine(3, top_logprobs=2, prompt_logprobs=True), Tiny(folder).static(3)):
        assert {c.finish_reason for c in drain(engine, requests).values()} == {FinishReason.ERROR}
        assert engine.load() == (0, 0)


def test_more_samples_than_slots(tiny: MakeTiny) -> None:
    row = PromptRow("a", None, (5, 6, 7), SamplingParams(n=30, max_tokens=5, temperature=2.0))
    done = drain(tiny().engine(4), row.requests())
    assert sorted(done) == [("a", i) for i in range(30)]


def test_the_demo_model_on_its_own_prompts(demo: Tiny) -> None:
    """Real text, real ends: token for token what `generate` gives, and the same text."""
    texts = ["The weather in Ashford", " two  spaces\n\ttab", "naïve café, 東京 🚂", "The", "Dear"]
    prompts = demo.tokenizer.encode_batch(texts)
    requests = [request(str(i), p, max_tokens=60) for i, p in enumerate(prompts)]
    for engine in (demo.engine(3, max_len=256), demo.static(3, max_len=256)):
        done = drain(engine, requests)
        for i, prompt in enumerate(prompts):
            ids, gaps = demo.generate(prompt, 60, eos_token_id=0)
            assert_equal_up_to_ties(done[str(i), 0], ids, gaps)
            if done[str(i), 0].token_ids == tuple(ids):
                assert done[str(i), 0].text == demo.tokenizer.decode([t for t in ids if t])
