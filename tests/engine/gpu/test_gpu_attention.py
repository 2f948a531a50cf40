"""The GPU's attention against float64, and bit for bit against itself in other company."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import key_scales, side_shapes, value_scales
from pipeline.engine.gpu.attention import DeviceStep
from pipeline.engine.gpu.attention_check import kernels_are_right
from pipeline.engine.plain import attention as plain_attention
from tests.engine.gpu.device import DEVICE
from tests.engine.gpu.device_steps import PART, TYPES, Ragged, make_ragged, ragged
from tests.example_counts import examples

F32, BF16, F16, I8 = torch.float32, torch.bfloat16, torch.float16, torch.int8
ERROR = {F32: 2e-5, F16: 4e-3, BF16: 3e-2}
"""Of values of about 1: a few units in the last place of queries, weights and result."""


@settings(deadline=None, max_examples=examples(16))
@given(step=ragged(), idle=st.tuples(*[st.integers(0, 2)] * 3))
def test_every_token_attends_to_its_own_past(step: Ragged, idle: tuple[int, int, int]) -> None:
    found, *_ = step.run(idle=idle)
    for row in range(len(step.case.news)):
        error = ERROR[step.dtype]
        torch.testing.assert_close(found[row].double(), step.case.exact(row), rtol=error, atol=error)
    assert torch.equal(found[-1], torch.zeros_like(found[-1]))


@settings(deadline=None, max_examples=8)
@given(step=ragged(), data=st.data())
def test_bits_do_not_depend_on_company_or_grid(step: Ragged, data: st.DataObject) -> None:
    whole, *_ = step.run()
    members = data.draw(st.permutations(range(len(step.case.news)))).copy()
    kept = members[: data.draw(st.integers(1, len(members)))]
    kept.sort(key=lambda m: m >= step.decoding)
    more = data.draw(st.integers(0, 2))
    some, *_ = step.run(kept, splits=step.longest + more, idle=(more, 1, 1), fill=1.0)
    for row in kept:
        assert torch.equal(some[row], whole[row])


@pytest.mark.parametrize("heads", [(1, 1), (2, 1)])
def test_bits_do_not_depend_on_the_parts_a_grid_has(heads: tuple[int, int]) -> None:
    step = make_ragged(1, [3 * PART + 5, PART, PART + 1, 7], [], heads, 16, (F32, F32))
    whole, *_ = step.run(splits=4)
    for row, splits in ((0, 5), (1, 1), (1, 2), (2, 2), (3, 1), (3, 4)):
        alone, *_ = step.run([row], splits=splits, shortest=True)
        assert torch.equal(alone[row], whole[row])


@settings(deadline=None, max_examples=8)
@given(step=ragged(), idle=st.tuples(*[st.integers(0, 2)] * 3))
def test_the_cache_gets_what_torch_writes_and_nothing_else(step: Ragged, idle: tuple[int, int, int]) -> None:
    case = step.case
    keys, values = case.keys.clone(), case.values.clone()
    for row, (past, new) in enumerate(zip(case.pasts, case.news, strict=True)):
        positions = torch.arange(past, past + new)
        places = case.tables[row, positions // BLOCK].long() * BLOCK + positions % BLOCK
        mine = slice(case.firsts[row], case.firsts[row] + new)
        plain_attention.write(keys, values, places, case.k[mine], case.v[mine])
    for found, expected in zip(step.run(idle=idle)[1:], (keys, values), strict=True):
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


def test_what_is_not_finite_is_quantised_as_torch_does() -> None:
    k = torch.randn(7, 3, 20, generator=torch.Generator().manual_seed(2))
    k[0, 0, 3], k[1, 1, 0], k[2, 2, 19], k[3], k[4], k[5, 0] = torch.inf, -torch.inf, torch.nan, 0, 3e38, 1e-30
    k[6, 0, :4] = torch.tensor([127.0, 0.5, 1.5, -2.5])
    k[6, 0, 4:] = 0
    v = k.flip(0) * 2
    keys, values = expected = [torch.zeros(8, *side, dtype=I8) for side in side_shapes(3, 20, I8)]
    places = torch.arange(7) * BLOCK + 3
    plain_attention.write(keys, values, places, k, v)
    found = [torch.zeros_like(side, device=DEVICE) for side in expected]
    slots = torch.arange(7, dtype=torch.int32, device=DEVICE)
    nothing = torch.zeros(0, 4, dtype=torch.int32, device=DEVICE)
    step = DeviceStep(slots, torch.full_like(slots, 3), slots[:1], nothing, slots[:, None].contiguous(), 0, 1)
    step.attend(k.to(DEVICE), k.to(DEVICE), v.to(DEVICE), found[0], found[1], 1.0)
    for mine, side, scales in zip(found, expected, (key_scales, value_scales), strict=True):
        torch.testing.assert_close(scales(mine).cpu(), scales(side), rtol=0, atol=0, equal_nan=True)
        scales(mine)[:] = scales(side)[:] = 0  # there are several ways to be no number
        assert torch.equal(mine.cpu(), side)


@pytest.mark.filterwarnings("ignore:All-NaN slice|invalid value")  # what the interpreter's numpy says of such numbers
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_other_sequences_numbers_reach_nobody(heads: tuple[int, int]) -> None:
    step = make_ragged(3, [40, 33, 70], [(1, 40), (0, 9)], heads, 16, (F32, F32))
    whole, *_ = step.run()
    for spoiled in (1, 3):
        mine = slice(step.case.firsts[spoiled], step.case.firsts[spoiled] + step.case.news[spoiled])
        with _kept(step.case.k, step.case.v, step.case.q):
            for x in (step.case.k, step.case.v, step.case.q):
                x[mine] = torch.nan
            found, *_ = step.run()
        assert found[spoiled].isnan().all()
        for row in {0, 1, 2, 3, 4} - {spoiled}:
            assert torch.equal(found[row], whole[row])


@contextlib.contextmanager
def _kept(*tensors: torch.Tensor) -> Iterator[None]:
    """Put back what tensors hold."""
    before = [x.clone() for x in tensors]
    yield
    for x, old in zip(tensors, before, strict=True):
        x.copy_(old)


@pytest.mark.parametrize("types", [(F32, F32), (BF16, BF16), (BF16, I8)])
def test_views_of_a_fused_projection_give_the_same_bits(types: tuple[torch.dtype, torch.dtype]) -> None:
    heads, dim, tokens = 3, 20, 5
    draw = torch.Generator().manual_seed(4)
    fused = torch.randn(1, tokens, 3 * heads * dim + 1, generator=draw).to(DEVICE, types[0])[..., 1:]
    parts = [x.unflatten(-1, (heads, dim)).transpose(1, 2) for x in fused.split(heads * dim, -1)]  # [1, H, T, D]
    slots = torch.zeros(tokens, dtype=torch.int32, device=DEVICE)
    positions = torch.arange(tokens, dtype=torch.int32, device=DEVICE)
    chunk = torch.tensor([[0, tokens, 0, 0]], dtype=torch.int32, device=DEVICE)
    step = DeviceStep(slots, positions, slots[:1], chunk, slots[:1, None], 0, 1)
    decode = DeviceStep(slots[:1], positions[:1], slots[:1] + 1, chunk[:0], slots[:1, None], 1, 1)
    for one, count in ((step, tokens), (decode, 1)):
        results = []
        for change in (lambda x: x, torch.clone, lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)):
            shapes = side_shapes(heads, dim, types[1])
            keys, values = (torch.zeros(1, *side, dtype=types[1], device=DEVICE) for side in shapes)
            q, k, v = (change(x[0].transpose(0, 1)[:count]) for x in parts)
            results.append([one.attend(q, k, v, keys, values, dim**-0.5), keys, values])
        for others in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("types", TYPES if DEVICE == "cuda" else [(F32, I8), (BF16, BF16), (F16, F16)])
def test_the_check_passes(types: tuple[torch.dtype, torch.dtype]) -> None:
    assert kernels_are_right(2, 1 + (types[0] == BF16), 20, *types, torch.device(DEVICE))


def test_the_check_sees_what_is_wrong_or_unsteady(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = DeviceStep.attend

    def wrong(*arguments: torch.Tensor) -> torch.Tensor:
        return kernel(*arguments) * 1.001  # type: ignore[arg-type]

    def unsteady(self: DeviceStep, *arguments: torch.Tensor) -> torch.Tensor:
        return kernel(self, *arguments) * (1 + 1e-7 * (self.splits % 2))  # type: ignore[arg-type]

    def forgetful(self: DeviceStep, q: torch.Tensor, k: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        out = kernel(self, q, k, *arguments)  # type: ignore[arg-type]
        arguments[1][:] = 0
        return out

    def broken(*arguments: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    for attend in (wrong, unsteady, forgetful, broken):
        monkeypatch.setattr(DeviceStep, "attend", attend)
        assert not kernels_are_right(1, 1, 4, F32, F32, torch.device(DEVICE))
