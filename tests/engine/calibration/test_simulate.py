"""A simulation schedules what the engine schedules: the same steps, tokens and blocks, and ends as the engine ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.engine.base import Resources
from pipeline.engine.cache.memory import MemoryPlan
from pipeline.engine.calibration.simulate import Expected, Setup, Simulated, simulate, work_of
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.registry import open_backend
from pipeline.types import Request, SamplingParams
from tests.engine.calibration.test_figures import CALIBRATION
from tests.small_runs import MODEL

SAMPLING = SamplingParams(max_tokens=9, ignore_eos=True)
SHARED = tuple(range(5, 75))
PROMPTS = [SHARED[: 3 + 11 * i % 70] for i in range(9)] + [(*SHARED, 9, i) for i in range(4)]


def requests() -> list[Request]:
    """Return samples of the same prompt, prompts with a common beginning, and short ones."""
    twice = [Request(f"r{i}", n, prompt, SAMPLING) for i, prompt in enumerate(PROMPTS) for n in (0, 1)]
    return [request for request in twice if request.row_id != "r3" or request.sample_index == 0]


def scored_requests() -> list[Request]:
    """Return texts to score, of which some begin with what others begin with, and some after a context."""
    return [
        Request(f"r{i}", 0, (*prompt, i, 7), SAMPLING, 1 + 20 * i % len(prompt)) for i, prompt in enumerate(PROMPTS)
    ]


@pytest.mark.parametrize("asked", [requests, scored_requests])
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_the_steps_are_those_of_the_engine(prefix_caching: bool, asked: Callable[[], list[Request]]) -> None:
    engine = EngineConfig(max_num_seqs="6", prefix_caching=prefix_caching)
    backend: Any = open_backend(ModelConfig(path=str(MODEL), dtype="float32"), engine)
    built: Any = backend.build(StatsConfig(columns=[]), Resources(threads=1, expected=len(asked())))
    made, launch, admit, begun, blocks = [], built.engine.stepper.launch, built.engine.stepper.admit, [0], []

    def watched(step: Any) -> Any:
        made.append(work_of(step, begun[-1]))
        running = [*step.decodes, *(chunk.sequence for chunk in step.chunks)]
        blocks.append(1 + max(max(sequence.blocks) for sequence in running))
        return launch(step)

    def counted(admitted: Any) -> None:
        begun.append(len(admitted))
        admit(admitted)

    built.engine.stepper.launch, built.engine.stepper.admit = watched, counted
    built.engine.add(asked())
    tokens = 0
    while any(built.engine.load()):
        tokens += sum(len(c.token_ids) for c in built.engine.step())
    memory = MemoryPlan(6, built.facts["kv_blocks"])
    setup = Setup(memory, 256, share=prefix_caching, threads=1, expected=len(asked()), max_scored=None)
    found = simulate([[Expected(r, 9, 9) for r in asked()]], CALIBRATION, setup, 10_000)
    assert (found.steps, found.tokens, found.blocks) == (len(made), tokens, max(blocks))
    assert found.read == sum(work.read for work in made)
    assert found.seconds == pytest.approx(sum(map(CALIBRATION.seconds, made)))
    assert found.limit == pytest.approx(sum(map(CALIBRATION.limit, made)))
    assert found.complete and (found.running == 6 or asked is scored_requests)


def simulated(rows: int, most_steps: int, length: int = 9) -> Simulated:
    """Simulate shards of four rows."""
    shards = [
        [Expected(Request(f"{s}-{i}", 0, (1, 2, s, i), SAMPLING), 9, length) for i in range(4)] for s in range(rows)
    ]
    return simulate(
        shards, CALIBRATION, Setup(MemoryPlan(64, 1000), 256, share=True, threads=1, expected=0), most_steps
    )


def test_two_shards_are_in_hand() -> None:
    found = simulated(20, 10_000)
    assert (found.running, found.tokens) == (8, 20 * 4 * 9)
    assert simulated(1, 10_000).running == 4


def test_sequences_may_end_early() -> None:
    assert simulated(3, 10_000, length=2).tokens == 3 * 4 * 2


def test_a_simulation_that_is_cut_off_goes_on_at_its_rate() -> None:
    whole, some = simulated(400, 10**6), simulated(400, 200)
    assert whole.complete and not some.complete and some.steps == 200
    assert whole.whole(whole.tokens) == whole.seconds
    assert some.whole(whole.tokens) == pytest.approx(whole.seconds, rel=0.03)


def test_nothing_to_do() -> None:
    empty = simulate([[], []], CALIBRATION, Setup(MemoryPlan(1, 9), 256, share=True, threads=1, expected=0), 10)
    assert (empty.steps, empty.seconds, empty.complete, empty.whole(0)) == (0, 0.0, True, 0.0)
