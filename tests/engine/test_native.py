"""The compiled attention kernel: right to float32's rounding, and every row's bits its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine import native
from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import LANES
from pipeline.engine.config import KERNELS
from pipeline.engine.native.attention import RUN, NativeStep
from pipeline.engine.native.product import PANEL, ROW_BYTES, STRETCH, TALLEST
from pipeline.engine.plain.attention import Spot
from pipeline.errors import ModelRefused
from tests.engine.small.attention_cases import (
    BUILT,
    DIMS,
    DTYPES,
    LEVEL,
    X86,
    Case,
    assert_exact,
    cases,
    make_case,
    needs_kernels,
    put,
)
from tests.engine.small.tiny_models import OLDER, kernels_of, without_kernels
from tests.example_counts import examples

pytestmark = needs_kernels
Run = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def run(case: Case, steps: Iterable[list[Spot]] | None = None, *, threads: int = 1, alone: bool = False) -> Run:
    """Run spots in one or several steps over a copy of the cache → (out, keys, values); `alone`: none reads another's."""
    torch.set_num_threads(threads)
    keys, values, out = case.keys.clone(), case.values.clone(), torch.zeros(case.q.shape)
    for spots in steps or [case.spots]:
        step = NativeStep(
            torch.tensor(spots, dtype=torch.int32), case.tables, case.k.shape[1], case.k.shape[2], keys.dtype,
            len(spots) if alone else 0,
        )  # fmt: skip
        out += step.attend(case.q, case.k, case.v, keys, values, case.scale)
    return out, keys, values


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same bits, those of what is not a number too."""
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


@settings(max_examples=examples(150), deadline=None)
@given(cases())
def test_it_is_attention_and_writes_only_what_is_new(case: Case) -> None:
    """Whatever garbage lies in unwritten places, other blocks and the padding."""
    out, keys, values = run(case)
    assert_exact(case, out)
    for found, expected in zip((keys, values), case.expected_cache(), strict=True):
        assert same(found, expected)


@settings(max_examples=examples(60), deadline=None)
@given(cases(), st.integers(2, 4), st.integers(1, BLOCK))
def test_a_rows_bits_are_its_own(case: Case, threads: int, longest: int) -> None:
    """Alone, in company, in one chunk, in pieces, one by one, by any number of threads, in any blocks, in any order."""
    rows = range(len(case.news))
    whole = run(case)
    in_pieces = [[spot] for row in rows for spot in case.spots_of(row, longest)]
    one_by_one = [[spot] for row in rows for spot in case.spots_of(row, 1)]
    at_once = [[spot for spots in one_by_one for spot in spots]]  # each token a chunk, all of them in one step
    for steps in ([case.spots[::-1]], [case.spots_of(row, BLOCK) for row in rows], in_pieces, one_by_one, at_once):
        assert all(same(a, b) for a, b in zip(run(case, steps), whole, strict=True))
    lone = [[case.spots_of(row, 1)[i] for row in rows if i < case.news[row]] for i in range(max(case.news))]
    assert all(same(a, b) for a, b in zip(run(case, lone, alone=True, threads=threads), whole, strict=True))
    assert all(same(a, b) for a, b in zip(run(case, threads=threads), whole, strict=True))
    order = torch.randperm(len(case.keys), generator=torch.Generator().manual_seed(threads))
    tables = order.argsort()[case.tables.long()].to(torch.int32)
    moved = replace(case, tables=tables, keys=case.keys[order], values=case.values[order])
    assert same(run(moved)[0], whole[0])


@settings(max_examples=examples(60), deadline=None)
@given(cases(), st.data())
def test_what_is_not_finite_stays_in_its_sequence(case: Case, data: st.DataObject) -> None:
    clean = run(case)[0]
    row = data.draw(st.integers(0, len(case.news) - 1))
    bad = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    side = data.draw(st.sampled_from("qkv"))
    getattr(case, side)[case.firsts[row]] = bad  # its first new token, which all that follow see
    out = run(case)[0]
    mine = torch.zeros(len(out), dtype=torch.bool)
    mine[case.firsts[row] : case.firsts[row] + case.news[row]] = True
    assert same(out[~mine], clean[~mine])
    if bad != bad:
        assert out[case.firsts[row] if side == "q" else mine].isnan().all(), "and is not hidden there"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["spread", "equal", "one", "far below"])
def test_extreme_scores(kind: str, dtype: torch.dtype) -> None:
    """Scores over ±200, all the same, one that outweighs all others, and some whose weight is no float32 any more."""
    for dim, length in ((4, 7), (16, 45), (64, 300), (80, 64)):
        case = make_case(length, [(length, 5), (0, length)], (4, 2), dim, dtype)
        one = torch.nn.functional.normalize(torch.randn(dim, generator=torch.Generator().manual_seed(1)), dim=0)
        sizes = {
            "spread": torch.linspace(-200, 200, 2 * length + 5), "equal": torch.full((2 * length + 5,), 7.0),
            "one": torch.zeros(2 * length + 5).index_fill(0, torch.tensor([length // 2]), 150.0),
            "far below": torch.linspace(-120, 0, 2 * length + 5),
        }[kind]  # fmt: skip
        sizes = sizes[torch.randperm(len(sizes), generator=torch.Generator().manual_seed(2))]
        case.q[:] = one / case.scale
        case.k[:] = (sizes[: length + 5, None] * one)[:, None]
        case.past_k[0][:] = (sizes[length + 5 :, None] * one)[:, None]
        again = make_case(length, [(length, 5), (0, length)], (4, 2), dim, dtype)
        case.keys = replaced_past(again, case)
        out, *_ = run(case)
        # a score of 200 has an error of 2^-17 in float32, and so its weight
        assert_exact(case, out, tolerance=3e-4 if kind == "spread" else 1e-4)


def replaced_past(old: Case, new: Case) -> torch.Tensor:
    """The cache of `old` with the past keys of `new`."""
    for position, (k, v) in enumerate(zip(new.past_k[0], new.past_v[0], strict=True)):
        put(old.keys, old.values.clone(), old.tables[0], position, k, v)
    return old.keys


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 80.0))
def test_weights_are_exponentials_to_a_few_units_in_the_last_place(seed: int, spread: float) -> None:
    """One value is 1 and all others 0, so that the output is a weight; the scores are exact in float32."""
    count = 32
    case = make_case(seed, [(0, count)], (1, 1), 4, torch.float32)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * spread
    scores = (scores * 1024).round() / 1024  # so that their differences are exact too
    case.q[:] = torch.tensor([2.0, 0, 0, 0])  # times the scale of 1 / 2
    case.k[:] = torch.nn.functional.pad(scores[:, None], (0, 3))[:, None]
    case.v[:] = torch.eye(count)[:, None, :4]
    weights = torch.softmax(scores.double(), 0)[:4]
    found = run(case)[0][-1, 0].double()
    torch.testing.assert_close(found, weights, rtol=1.5e-6, atol=0)


@pytest.mark.parametrize("dim", DIMS)
def test_any_strides_of_heads_and_tokens(dim: int) -> None:
    """As projections come: all of q, k and v in one matrix, heads before tokens, one head for all."""
    case = make_case(dim, [(40, 1), (5, 20)], (4, 2), dim, torch.float32)
    whole = run(case)
    joined = torch.cat([case.q, case.k, case.v], 1)
    parts = joined.split([4, 2, 2], 1)
    assert not any(part.is_contiguous() for part in parts)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (case.q, case.k, case.v)]
    for q, k, v in (parts, turned):
        assert all(same(a, b) for a, b in zip(run(replace(case, q=q, k=k, v=v)), whole, strict=True))
    one = case.k[:, :1]
    shared, copied = (run(replace(case, k=x, v=x)) for x in (one.expand(-1, 2, -1), one.repeat(1, 2, 1)))
    assert all(same(a, b) for a, b in zip(shared, copied, strict=True))


def test_padding_tokens_give_zero_and_write_nothing() -> None:
    case = make_case(1, [(3, 2), (0, 4)], (2, 2), 16, torch.float32)
    padding = [torch.cat([x, torch.full_like(x[:2], torch.nan)]) for x in (case.q, case.k, case.v)]
    more = replace(case, q=padding[0], k=padding[1], v=padding[2])
    out, keys, values = run(more, [case.spots])
    expected = run(case)
    assert same(out[:-2], expected[0]) and same(keys, expected[1]) and same(values, expected[2])
    assert (out[-2:] == 0).all()


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 2**31))
def test_bfloat16_is_stored_as_torch_rounds(seed: int) -> None:
    """Random bits: subnormal, infinite, not a number, halfway between two; ties go to even."""
    draw = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (96, 2, 64), generator=draw, dtype=torch.int64)
    bits[:, :, :16] = (bits[:, :, :16] >> 16 << 16) + 0x8000  # exactly halfway
    # the largest, -0, not a number, the smallest
    bits[:, :, 16:20] = torch.tensor([0x7F7FFFFF, -0x80000000, 0x7F800001, 1])
    floats = bits.to(torch.int32).view(torch.float32)
    case = make_case(seed, [(0, 96)], (2, 2), 64, torch.bfloat16)
    case.k, case.v = floats, floats.flip(0)
    _, keys, values = run(case)
    for found, expected in zip((keys, values), case.expected_cache(), strict=True):
        assert torch.equal(found.isnan(), expected.isnan())
        both = ~found.isnan()
        assert torch.equal(found[both].view(torch.int16), expected[both].view(torch.int16))


def test_a_long_sequence() -> None:
    case = make_case(3, [(4000, 1), (4064, 32), (0, 70)], (4, 2), 64, torch.bfloat16)
    out, *_ = run(case, threads=2)
    assert_exact(case, out)


def test_where_it_was_built_it_is_used() -> None:
    assert BUILT
    assert native.library() is not None
    assert native.level() == LEVEL


def test_where_it_was_not_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with without_kernels():
        assert (native.library(), native.level()) == (None, "none")
        with pytest.raises(RuntimeError, match="not there"):
            native.needed()
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    (tmp_path / f"_native-{LEVEL}.so").write_bytes(b"\x7fELF of another system")
    native._found.cache_clear()
    assert native.library() is None
    assert f"_native-{LEVEL}.so is not used: " in caplog.text
    monkeypatch.undo()
    native._found.cache_clear()
    assert native.library() is not None


V3 = {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
BF16 = V4 | {"avx512_vnni", "avx512_bf16"}


@pytest.mark.skipif(not X86, reason="these are levels of x86-64")
@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        ({"sse2", "avx"}, []), (V3, ["v3"]), (V3 | {"avx_vnni"}, ["v3-vnni", "v3"]), (V4, ["v4", "v3"]),
        (V4 | {"avx512_vnni"}, ["v4-vnni", "v4", "v3"]),
        (V4 | {"avx512_vnni", "avx_vnni"}, ["v4-vnni", "v4", "v3-vnni", "v3"]),
        (V4 | {"avx512_bf16"}, ["v4", "v3"]),
        (BF16, ["v4-bf16", "v4-vnni", "v4", "v3"]), (BF16 | {"amx_tile", "amx_int8"}, ["v4-bf16", "v4-vnni", "v4", "v3"]),
        (BF16 | {"amx_tile", "amx_int8", "amx_bf16"}, ["v4-amx", "v4-bf16", "v4-vnni", "v4", "v3"]),
    ],
)  # fmt: skip
def test_a_processor_has_the_levels_whose_instructions_it_has(
    flags: set[str], levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "processor", lambda: ("GenuineIntel", frozenset(flags)))
    assert native.levels() == levels


@pytest.mark.parametrize("level", [LEVEL, *OLDER])
def test_a_level_can_be_forced(level: str) -> None:
    with kernels_of(level):
        assert native.level() == level and native.library() is not None
    assert native.level() == LEVEL
    native.use("none")
    assert (native.level(), native.library()) == ("none", None)
    native.use("auto")
    assert native.level() == LEVEL


def test_a_level_that_cannot_be_is_refused_and_what_was_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelRefused, match=f"there is no such level on .*; here it can be auto, none, .*{LEVEL}"):
        native.use("native-of-a-dream")
    assert native.level() == LEVEL
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    with pytest.raises(
        ModelRefused, match=r"was not compiled when promptmill was installed; here it can be auto, none$"
    ):
        native.use(f"native-{LEVEL}")
    monkeypatch.undo()
    native._found.cache_clear()
    if X86:
        monkeypatch.setattr(native, "processor", lambda: ("GenuineIntel", frozenset(V3)))
        with pytest.raises(ModelRefused, match=r"engine\.kernels=native-v4: this processor has no avx512bw, avx512cd"):
            native.use("native-v4")
    monkeypatch.undo()
    native._found.cache_clear()
    assert native.level() == LEVEL


def test_the_configuration_knows_every_level() -> None:
    assert {f"native-{name}" for levels in native.LEVELS.values() for name in levels} == {*KERNELS} - {"auto", "none"}


def test_both_languages_agree_on_the_sizes() -> None:
    """The scratch memory is laid out by one and filled by the other."""
    text = "".join(file.read_text() for file in native.INCLUDE.glob("*.h"))
    sizes: dict[str, int] = {}
    for name, value in re.findall(
        r"^#define (BLOCK|WIDTH|LANES|RUN|STRETCH|TALLEST|ROW_BYTES) (\d+)", text, re.MULTILINE
    ):
        sizes[name] = max(sizes.get(name, 0), int(value))  # the largest, where it depends on the processor
    assert sizes == {
        "BLOCK": BLOCK, "WIDTH": LANES, "LANES": PANEL // 2, "RUN": RUN, "STRETCH": STRETCH, "TALLEST": TALLEST,
        "ROW_BYTES": ROW_BYTES,
    }  # fmt: skip


def test_a_library_of_other_sources_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = shutil.copytree(native.INCLUDE, tmp_path / "include")
    (other / "vector.h").write_text("#define LANES 8\n")
    monkeypatch.setattr(native, "INCLUDE", other)
    native._found.cache_clear()
    assert native.library() is None
    assert "it was built from other sources; install promptmill again" in caplog.text
    monkeypatch.undo()
    native._found.cache_clear()
