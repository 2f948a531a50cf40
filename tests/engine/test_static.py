"""What is particular to the static engine; that it agrees with `generate` is in `test_continuous`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.types import Room
from tests.engine.small.tiny_models import CONTEXT, FAMILIES, Tiny, drain, random_prompts, request

MakeTiny = Callable[..., Tiny]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_fills_the_context_early_stops_nobody(tiny: MakeTiny, family: str) -> None:
    """It ends after a token; the batch goes on for many more than the model has positions for it."""
    full, short = random_prompts(31, [CONTEXT - 1, 5])
    requests = [
        request("full", full, max_tokens=9, ignore_eos=True), request("short", short, max_tokens=20, ignore_eos=True),
    ]  # fmt: skip
    together = drain(tiny(family).static(2), requests)
    alone = drain(tiny(family).static(1), requests)
    assert {n: c.token_ids for n, c in together.items()} == {n: c.token_ids for n, c in alone.items()}
    assert len(together["full", 0].token_ids) == 1


def test_a_batch_runs_to_its_end_before_the_next_and_counts_its_tokens_as_they_are_made(tiny: MakeTiny) -> None:
    engine = tiny().static(3)
    prompts = enumerate(random_prompts(32, [4, 9, 2, 30]))
    engine.add([request(str(i), p, max_tokens=3 + i, ignore_eos=True) for i, p in prompts])
    assert engine.load() == (0, 4)
    assert engine.room == Room(3), "its cache has no blocks"
    seen, ended = [], []
    while any(engine.load()):
        ended.append([c.request.row_id for c in engine.step()])
        seen.append((engine.load(), engine.room.open_tokens))
    assert ended == [[], [], ["0"], ["1"], ["2"], *[[]] * 5, ["3"]]
    assert seen[:5] == [((3, 1), 3), ((3, 1), 6), ((2, 1), 6), ((1, 1), 4), ((0, 1), 0)]
    assert seen[5:] == [*(((1, 0), n) for n in range(1, 6)), ((0, 0), 0)]
    assert engine.step() == []


def test_both_engines_sample_alike(tiny: MakeTiny) -> None:
    """The noise and the rules are shared, so that only rounding could make the tokens differ; statistics are close."""
    prompts = random_prompts(33, [1, 9, 33, 40, 64])
    requests = [
        request(str(i), p, temperature=0.8, top_k=30, top_p=0.9, max_tokens=15, seed=4) for i, p in enumerate(prompts)
    ]
    a, b = drain(tiny().engine(3), requests), drain(tiny().static(3), requests)
    assert {n: c.token_ids for n, c in a.items()} == {n: c.token_ids for n, c in b.items()}
    assert {n: c.text for n, c in a.items()} == {n: c.text for n, c in b.items()}
    for name in a:
        for column, values in a[name].statistics.items():
            assert values == pytest.approx(b[name].statistics[column], abs=1e-4)
