"""Places in the cache: what was written is found again, wherever the sequence was moved."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.kv_cache import KVCache, length_classes

CPU = torch.device("cpu")
HEADS, DIM, LAYERS = 2, 16, 2


def cache(slots: int, max_len: int) -> KVCache:
    return KVCache(LAYERS, slots, HEADS, max_len, DIM, torch.float32, CPU)


def write(kv: KVCache, slot: int, positions: range, value: float) -> None:
    """Position p of head h gets value + p + h / 10 in the keys, and its negative in the values."""
    p = torch.tensor(list(positions))
    content = (value + p[:, None, None] + torch.arange(HEADS)[:, None] / 10).expand(-1, -1, DIM)
    rows = kv.flat_rows([slot] * len(p), p)
    for number, layer in enumerate(kv.layers):
        layer.write(rows, content * (number + 1), -content * (number + 1))


def read(kv: KVCache, slot: int, length: int) -> list[torch.Tensor]:
    number, row = kv.place(slot)
    return [side[number][row, :, :length] for layer in kv.layers for side in (layer.keys, layer.values)]


def expected(length: int, value: float) -> list[torch.Tensor]:
    content = value + torch.arange(length)[:, None] + torch.zeros(DIM)
    heads = torch.stack([content + h / 10 for h in range(HEADS)])
    return [sign * heads * (number + 1) for number in range(LAYERS) for sign in (1, -1)]


@given(st.integers(1, 10_000))
def test_classes_hold_the_longest_and_waste_a_third_at_most(max_len: int) -> None:
    classes = length_classes(max_len)
    assert classes == sorted(set(classes)) and all(c % 32 == 0 for c in classes)
    assert classes[-1] >= max_len > ([0, *classes])[-2]
    assert all(b <= 1.5 * a for a, b in itertools.pairwise(classes))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 6), st.sampled_from([1, 40, 64, 100, 200]))
def test_nothing_is_lost_or_mixed_up(data: st.DataObject, slots: int, max_len: int) -> None:
    """Random lives of sequences: they come, grow from class to class, are moved together, and go."""
    kv, lengths, values = cache(slots, max_len), dict[int, int](), dict[int, float]()
    for count in range(30):
        free = [s for s in range(slots) if s not in lengths]
        slot = data.draw(st.integers(0, slots - 1))
        if slot in free:
            values[slot], lengths[slot] = 1000.0 * (count + 1), data.draw(st.integers(1, max_len))
            kv.reserve(slot, lengths[slot])
            write(kv, slot, range(lengths[slot]), values[slot])
        elif data.draw(st.booleans()) and lengths[slot] < max_len:
            longer = data.draw(st.integers(lengths[slot] + 1, max_len))
            kv.reserve(slot, longer)
            write(kv, slot, range(lengths[slot], longer), values[slot])
            lengths[slot] = longer
        else:
            kv.release(slot, clear=data.draw(st.booleans()))
            del lengths[slot], values[slot]
        if data.draw(st.booleans()):
            kv.compact()
        places = [kv.place(s) for s in lengths]
        assert len(set(places)) == len(places)
        for s, length in lengths.items():
            assert kv.classes[kv.place(s)[0]].capacity >= length
            for found, wanted in zip(read(kv, s, length), expected(length, values[s]), strict=True):
                torch.testing.assert_close(found, wanted)


def test_a_cleared_place_is_zero_and_its_neighbour_is_not() -> None:
    kv = cache(2, 50)
    for slot in (0, 1):
        kv.reserve(slot, 50)
        write(kv, slot, range(50), torch.nan if slot == 0 else 1.0)
    place = kv.place(0)
    kv.release(0, clear=True)
    assert all((side[place[0]][place[1]] == 0).all() for layer in kv.layers for side in (layer.keys, layer.values))
    assert all(torch.equal(a, b) for a, b in zip(read(kv, 1, 50), expected(50, 1.0), strict=True))


def test_a_moved_sequence_leaves_nothing_that_is_not_finite() -> None:
    """Its old place may be taken before it turns out that it is spoilt."""
    kv = cache(3, 50)
    for slot in range(3):
        kv.reserve(slot, 10)
        write(kv, slot, range(10), torch.nan if slot == 2 else 1.0)
    before = kv.place(2)
    kv.release(0)
    kv.release(1)
    kv.compact()
    assert kv.place(2) != before
    assert all(
        side[before[0]][before[1]].isfinite().all() for layer in kv.layers for side in (layer.keys, layer.values)
    )


def test_releasing_what_has_no_place_does_nothing() -> None:
    cache(1, 10).release(0)


def resident() -> int:
    """Bytes of memory that this process has, files left out."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted as Linux does it")
def test_memory_follows_use_and_is_given_back() -> None:
    """Gigabytes of address space; memory for what is written, until it is given back."""
    before = resident()
    kv = KVCache(1, 256, 8, 1024, 64, torch.float32, CPU)
    assert resident() - before < 20 * 2**20
    for slot in range(64):
        kv.reserve(slot, 1024)
    number = kv.place(0)[0]
    layer = kv.layers[0]
    layer.keys[number][:64].fill_(1.0)
    layer.values[number][:64].fill_(2.0)
    written = 2 * layer.keys[number][:64].nbytes
    assert resident() - before > written * 0.9
    unit = 8 * kv.classes[number].capacity
    first = kv.flat_rows([0], torch.tensor([0]))[0].item()
    layer.give_back(int(first) + 10 * unit, int(first) + 64 * unit)
    assert resident() - before < written * 0.3
    assert layer.keys[number][:10].eq(1).all() and layer.values[number][:10].eq(2).all()
    assert layer.keys[number][11:64].eq(0).all() and layer.values[number][11:64].eq(0).all()


def test_what_was_ever_written_stays_within_the_plan() -> None:
    """Sequences that all grow through every class leave no more behind than the longest ones would take."""
    kv = cache(4, 512)
    for length in (64, 96, 128, 192, 256, 384, 512):
        for slot in range(4):
            kv.reserve(slot, length)
        assert sum(c.touched * c.capacity for c in kv.classes) <= 4 * 512 + 4 * length
