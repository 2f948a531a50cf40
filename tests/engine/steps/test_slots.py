"""What a slot keeps, and that nothing of it reaches the next sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.engine.layers.sampler import sample
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.plain.sampler import SamplingRows
from pipeline.engine.rules.noise import uniforms
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.record import Record
from pipeline.engine.steps.slots import SlotState
from tests.engine.small.tiny_models import END, byte_tokenizer, request

VOCAB, MAX_LEN = 320, 20
TOKENIZER = Tokenizer(byte_tokenizer(), VOCAB)


GRAMMARS = Grammars(TOKENIZER, VOCAB, frozenset({END}), 1)


def admitted(state: SlotState, slot: int, prompt: list[int], name: str = "a", **rules: Any) -> Sequence:
    one = request(name, prompt, **{"max_tokens": 10, **rules})
    sequence = Sequence(one, min(one.sampling.max_tokens, MAX_LEN - len(prompt)), slot=slot)
    grammar = GRAMMARS.start(one.sampling)
    state.admit([(sequence, StopWatch(one, sequence.max_new, frozenset({END}), TOKENIZER, grammar))])
    return sequence


def new_state(slots: int = 3) -> SlotState:
    return SlotState(slots, MAX_LEN, VOCAB, torch.device("cpu"), TOKENIZER, GRAMMARS)


def record(state: SlotState, sequences: list[Sequence], tokens: list[int]) -> None:
    slots, columns = torch.tensor([[s.slot, s.prompt_len + s.asked] for s in sequences]).unbind(1)
    state.record(slots, columns, torch.tensor(tokens))
    for sequence, token in zip(sequences, tokens, strict=True):
        sequence.generated.append(token)


def sampling_rows(state: SlotState, sequences: list[Sequence]) -> SamplingRows:
    slots, positions = torch.tensor([[s.slot, s.asked] for s in sequences]).unbind(1)
    truncates, all_greedy = state.rules(sequences)
    return state.sampling_rows(slots, positions, truncates=truncates, all_greedy=all_greedy)


def test_parameters_and_noise_of_a_step() -> None:
    state = new_state()
    a = admitted(state, 2, [5, 6], "a", temperature=0.7, top_k=9, top_p=0.8, min_p=0.1, seed=3)
    b = admitted(state, 0, [7], "b")
    record(state, [a, b], [1, 2])
    rows = sampling_rows(state, [b, a])
    assert rows.greedy.tolist() == [True, False] and not rows.all_greedy and rows.truncates
    assert rows.temperature.tolist() == torch.tensor([1.0, 0.7]).tolist()
    assert rows.top_k.tolist() == [VOCAB, 9] and rows.top_p.tolist() == torch.tensor([1.0, 0.8]).tolist()
    assert rows.log_min_p.tolist() == torch.tensor([-torch.inf, 0.1]).log().nan_to_num(-torch.inf).tolist()
    assert rows.uniform[1].item() == uniforms(3, "a", 0, 2)[1]
    alone = sampling_rows(state, [b])
    assert alone.all_greedy and not alone.truncates


def test_the_row_that_is_nobodys_can_be_sampled_from() -> None:
    state = new_state()
    a = admitted(state, 2, [5, 6], temperature=0.7)
    rows = state.sampling_rows(
        torch.tensor([a.slot, state.slots]), torch.tensor([0, 0]), truncates=False, all_greedy=False
    )
    assert sample(torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(0)), rows).shape == (2,)
    assert rows.greedy.tolist() == [False, True] and rows.temperature.tolist()[1] == 1


def test_several_are_admitted_at_once() -> None:
    state, together = new_state(), new_state()
    rules: list[dict[str, Any]] = [{"temperature": 0.7, "top_k": 3}, {}, {"temperature": 2.0, "max_tokens": 3}]
    ones = [admitted(state, slot, [5 + slot] * (slot + 1), str(slot), **rules[slot]) for slot in range(3)]
    together.admit([(s, StopWatch(s.request, s.max_new, frozenset({END}), TOKENIZER, None)) for s in ones])
    assert torch.equal(state.tokens, together.tokens)
    assert torch.equal(state._parameters, together._parameters)
    assert torch.equal(state._noise, together._noise)


def test_tokens_are_kept_by_position() -> None:
    state = new_state()
    a, b = admitted(state, 2, [5, 6]), admitted(state, 0, [7])
    record(state, [a, b], [10, 11])
    record(state, [b], [12])
    record(state, [b, a], [13, 14])
    assert state.tokens[2, :4].tolist() == [5, 6, 10, 14]
    assert state.tokens[0, :4].tolist() == [7, 11, 12, 13]


def test_statistics_are_kept_by_position() -> None:
    record, state = Record(3, MAX_LEN), new_state()
    a, b = admitted(state, 2, [5, 6]), admitted(state, 0, [7])

    def add(sequences: list[Sequence], values: list[int]) -> None:
        """What a step of other sequences, too, gave."""
        record.add(sequences, range(1, len(values) + 1), {"v": torch.tensor([-1, *values, -1]).float()})
        for sequence in sequences:
            sequence.generated.append(0)

    add([a, b], [10, 11])
    add([b], [12])
    add([b, a], [13, 14])
    kept, prompt = record.of(a)
    assert record.of(b)[0]["v"].tolist() == [11, 12, 13] and prompt is None
    c = admitted(state, 2, [8])
    add([c], [15])
    assert kept["v"].tolist() == [10, 14]  # a copy
    assert record.of(c)[0]["v"].tolist() == [15]


def test_statistics_take_memory_as_texts_grow_not_for_the_whole_context() -> None:
    """A thousand alternatives for each of 131,072 positions of 64 sequences would be 34 GB."""
    record, state = Record(64, 1 << 17), new_state()
    a, b = admitted(state, 0, [5]), admitted(state, 1, [6])
    kept = []
    for step in range(4):
        ids = (torch.arange(2000).view(2, 1000) + step).int()
        record.add([a, b], [1, 0], {"alternatives": ids, "chosen": ids[:, 0]})
        kept.append(ids)
        b.generated.append(0)
        a.generated += [0] * 701  # beyond the first part soon
    assert sum(part.nbytes for parts in record._values.values() for part in parts) < 2**30
    of_a, of_b = record.of(a)[0], record.of(b)[0]
    for step, ids in enumerate(kept):
        assert of_a["alternatives"][701 * step].tolist() == ids[1].tolist()
        assert of_b["alternatives"][step].tolist() == ids[0].tolist()
    assert of_a["alternatives"].shape == (4 * 701, 1000) and of_a["chosen"].shape == (4 * 701,)
    assert not of_a["alternatives"][1:701].any() and not of_a["alternatives"][1403:2103].any()
    assert of_b["chosen"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("part_bytes", [1, 3 * 4 * 7, 3 * 4 * MAX_LEN, 1 << 20])
def test_parts_of_a_column_are_one_to_its_reader(part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.steps.record._PART_BYTES", part_bytes)
    record, state = Record(3, MAX_LEN), new_state()
    a, b = admitted(state, 2, [5]), admitted(state, 0, [6])
    assert record.of(a) == ({}, None)
    for position in range(MAX_LEN):
        both = [a, b] if position % 3 else [a]
        record.add(both, range(len(both)), {"v": torch.tensor([position, -position])})
        for sequence in both:
            sequence.generated.append(0)
    assert record.of(a)[0]["v"].tolist() == list(range(MAX_LEN))
    assert record.of(b)[0]["v"].tolist() == [-n for n in range(MAX_LEN) if n % 3]
    assert record.of(admitted(state, 1, [7]))[0]["v"].shape == (0,)


def test_a_full_slot_is_not_written_past_its_end() -> None:
    state = new_state(2)
    a = admitted(state, 0, [1] * (MAX_LEN - 2))
    b = admitted(state, 1, [2])
    before = state.tokens[1].clone()
    record(state, [a], [9])
    record(state, [a], [9])
    assert state.tokens[0, :MAX_LEN].tolist() == [*[1] * (MAX_LEN - 2), 9, 9]
    assert torch.equal(state.tokens[1], before)
    assert b.slot == 1
