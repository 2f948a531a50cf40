"""How many sequences fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine import memory
from pipeline.engine.memory import available_bytes, fitting_slots
from pipeline.errors import ModelRefused


@given(st.integers(1, 4096), st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 10**12))
def test_what_is_planned_fits_and_no_more_than_was_asked(wanted: int, slot: int, step: int, available: int) -> None:
    try:
        slots = fitting_slots(wanted, slot, step, available)
    except ModelRefused as refused:
        assert slot + step > 0.79 * available
        assert "\n" not in str(refused) and "engine.max_model_len" in str(refused)
        return
    assert 1 <= slots <= wanted
    assert slots * slot + step <= available
    assert slots == wanted or (slots + 1) * slot + step > 0.79 * available


def test_unknown_memory_is_no_limit() -> None:
    assert fitting_slots(64, 10**12, 0, None) == 64


def test_there_is_memory_here() -> None:
    found = available_bytes()
    assert found is None or found > 2**20


def test_a_control_groups_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP_V2", tmp_path)
    free = available_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    unlimited = available_bytes()
    assert (free is None) == (unlimited is None)
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_bytes() == 4000
    (tmp_path / "memory.current").write_text("rubbish")
    assert available_bytes() != 4000
