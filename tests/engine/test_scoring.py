"""Scored tokens against float64, against what was generated, and bit for bit in every batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine.steps import eager
from pipeline.engine.steps.runner import ModelRunner
from pipeline.types import Completion, Request
from tests.engine.small.tiny_models import (
    CONTEXT,
    FAMILIES,
    Tiny,
    bits,
    drain,
    random_prompts,
    request,
    without_kernels,
)

MakeTiny = Callable[..., Tiny]
LENGTHS = [2, 3, 31, 32, 33, 34, 64, 65, 66, 100, CONTEXT, CONTEXT + 1]
ALL: dict[str, Any] = {"columns": ["logprob", "entropy", "rank"], "top_logprobs": 3}


def scoring(name: str, ids: list[int], first: int = 1) -> Request:
    return replace(request(name, ids), scored_from=first)


def exact(model: Tiny, asked: Request) -> np.ndarray[Any, Any]:
    """Log-softmax in float64 at the positions before each scored token, [N, V]."""
    logits = torch.tensor(model.exact_logits(asked.prompt_token_ids[:-1]))
    assert asked.scored_from is not None
    return logits.log_softmax(-1)[asked.scored_from - 1 :].numpy()


def assert_exact(model: Tiny, done: Completion) -> None:
    due, asked = exact(model, done.request), done.request
    ids = asked.prompt_token_ids[asked.scored_from :]
    assert (done.token_ids, done.text, done.error) == (ids, None, None)
    own = due[np.arange(len(ids)), ids]
    np.testing.assert_allclose(done.statistics["token_logprobs"], own, atol=1e-4)
    np.testing.assert_allclose(done.statistics["token_entropies"], -(np.exp(due) * due).sum(-1), atol=1e-4)
    np.testing.assert_allclose(done.statistics["top_token_logprobs"], -np.sort(-due, -1)[:, :3], atol=1e-4)
    ranks = (due > own[:, None] + 1e-5).sum(-1) + 1, (due > own[:, None] - 1e-5).sum(-1)
    assert ((done.statistics["token_ranks"] >= ranks[0]) & (done.statistics["token_ranks"] <= ranks[1])).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_statistic_is_that_of_float64(tiny: MakeTiny, family: str) -> None:
    model = tiny(family)
    requests = [scoring(str(n), ids) for n, ids in zip(LENGTHS, random_prompts(1, LENGTHS), strict=True)]
    requests += [replace(r, row_id=f"end of {r.row_id}", scored_from=len(r.prompt_token_ids) - 1) for r in requests]
    for engine in (model.engine(3, tokens=64, **ALL), model.static(**ALL)):
        for done in drain(engine, requests).values():
            assert_exact(model, done)


def test_the_bits_are_the_same_in_every_batch_and_wherever_scoring_begins(tiny: MakeTiny) -> None:
    model = tiny()
    requests = [scoring(str(n), ids) for n, ids in zip(LENGTHS, random_prompts(2, LENGTHS), strict=True)]
    alone = {r.row_id: bits(drain(model.engine(1, tokens=32, **ALL), [r])[r.row_id, 0]) for r in requests}
    for slots, tokens in ((12, 256), (5, 96)):
        for (name, _), done in drain(model.engine(slots, tokens=tokens, ahead=slots == 5, **ALL), requests).items():
            assert bits(done) == alone[name]
    for asked in requests:
        first = len(asked.prompt_token_ids) // 2 or 1
        later = drain(model.engine(**ALL), [replace(asked, scored_from=first)])[asked.row_id, 0].statistics
        whole = drain(model.engine(**ALL), [asked])[asked.row_id, 0].statistics
        assert all(later[name].tobytes() == whole[name][first - 1 :].tobytes() for name in whole)


def test_what_was_generated_scores_the_same(tiny: MakeTiny) -> None:
    model, prompts = tiny(), random_prompts(3, [1, 20, 31, 40, 64])
    sampling: dict[str, Any] = {"max_tokens": 40, "ignore_eos": True, "temperature": 1.0}
    made = drain(model.engine(**ALL), [request(str(i), p, **sampling) for i, p in enumerate(prompts)])
    asked = [scoring(str(i), [*p, *made[str(i), 0].token_ids], len(p)) for i, p in enumerate(prompts)]
    scored = drain(model.engine(**ALL), asked)
    for key, completion in made.items():
        for name, values in completion.statistics.items():
            assert values.tobytes() == scored[key].statistics[name].tobytes(), name


def test_a_common_beginning_is_read_once(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (context, *endings) = tiny(), random_prompts(4, [70, 5, 9, 3, 12])
    requests = [scoring(str(i), context + ending, len(context)) for i, ending in enumerate(endings)]
    alone = [bits(drain(model.engine(share=False, **ALL), [r])[r.row_id, 0]) for r in requests]
    read, run = list[int](), ModelRunner.run

    def counted(self: ModelRunner, step, tokens, **more):  # type: ignore[no-untyped-def]
        read.append(sum(chunk.length for chunk in step.chunks))
        return run(self, step, tokens, **more)

    monkeypatch.setattr(ModelRunner, "run", counted)
    for slots in (1, 4):
        read.clear()
        done = drain(model.engine(slots, **ALL), requests)
        assert [bits(done[r.row_id, 0]) for r in requests] == alone
        assert sum(read) == 64 + sum(70 - 64 + len(ending) - 1 for ending in endings)


def test_few_logits_are_in_memory_at_once(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny(), list[int]()
    requests = [scoring(str(i), ids) for i, ids in enumerate(random_prompts(5, [100, 120, 90, 128]))]
    before = {key: bits(done) for key, done in drain(model.engine(**ALL), requests).items()}
    monkeypatch.setattr("pipeline.engine.continuous.LOGITS_BYTES", 40 * 4 * model.vocab_size)
    run = ModelRunner.run

    def counted(*parts: Any, **options: Any) -> torch.Tensor:
        logits = run(*parts, **options)
        rows.append(len(logits))
        return logits

    monkeypatch.setattr(ModelRunner, "run", counted)
    assert {key: bits(done) for key, done in drain(model.engine(**ALL), requests).items()} == before
    assert max(rows) <= 40
    assert eager.LOGITS_BYTES == 64 << 20


def test_without_compiled_kernels_too(tiny: MakeTiny) -> None:
    with without_kernels():
        model = Tiny(tiny().folder)
        requests = [scoring(str(n), ids) for n, ids in zip(LENGTHS, random_prompts(6, LENGTHS), strict=True)]
        together = drain(model.engine(4, **ALL), requests)
        for asked in requests:
            assert_exact(model, together[asked.row_id, 0])
            assert bits(drain(model.engine(1, tokens=32, **ALL), [asked])[asked.row_id, 0]) == bits(
                together[asked.row_id, 0]
            )
