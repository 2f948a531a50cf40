"""Masks as bits: set, cleared, and unpacked on the host and as a GPU does it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.rules.bits import WORD, allow, forbid, permitted, unpacked


@given(
    count=st.integers(1, 200), rows=st.integers(1, 4), seed=st.integers(0, 99), more=st.integers(0, 2), data=st.data()
)
def test_bits_are_what_is_set(count: int, rows: int, seed: int, more: int, data: st.DataObject) -> None:
    draw = np.random.default_rng(seed)
    expected = draw.random((rows, count)) < 0.5
    words = -(-count // WORD) + more
    masks = draw.integers(-(2**31), 2**31, (rows, words)).astype(np.int32)
    for row in range(rows):
        allow(masks[row], expected[row].nonzero()[0].tolist())
        forbid(masks[row], (~expected[row]).nonzero()[0].tolist())
    tokens = data.draw(st.lists(st.integers(0, count - 1), max_size=3))
    forbid(masks, tokens)
    expected[:, tokens] = False
    on_host = permitted(masks, count, torch.device("cpu"))
    assert on_host.dtype == torch.bool and np.array_equal(on_host.numpy(), expected)
    as_a_gpu = unpacked(torch.from_numpy(masks), count)
    assert as_a_gpu.dtype == torch.bool and torch.equal(as_a_gpu, on_host)
