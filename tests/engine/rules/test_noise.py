"""Noise is uniform, named by (seed, row, sample, position), and the same for ever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from pipeline.engine.rules.noise import stream_key, uniforms

KEY = 65336406770593813704373126617748373293
FIRST = [0.7816682492799055, 0.5149444035715517, 0.8024791437563396, 0.4471592304675448]
OTHER = [0.3991441347031477, 0.725367355454123, 0.09980815395353582]
SURROGATE = [0.07922761240702403]
NAMES = st.tuples(st.integers(0, 2**63 - 1), st.text(), st.integers(0, 999_999))


def test_the_values_are_pinned() -> None:
    """Outputs can be replayed in years to come only while these stay."""
    assert stream_key(0, "row-0", 0) == KEY
    assert uniforms(0, "row-0", 0, 4).tolist() == FIRST
    assert uniforms(2**63 - 1, "zeile-ü🚂", 999_999, 3).tolist() == OTHER
    assert uniforms(0, "\ud800", 0, 1).tolist() == SURROGATE  # ids are whatever the file holds


@given(NAMES, st.integers(0, 300), st.integers(0, 300))
def test_a_longer_stream_begins_like_a_shorter_one(name: tuple[int, str, int], short: int, more: int) -> None:
    first, longer = uniforms(*name, short), uniforms(*name, short + more)
    assert len(longer) == short + more
    assert first.tobytes() == longer[:short].tobytes()


@given(NAMES, NAMES)
def test_equal_names_give_equal_noise_and_others_do_not(a: tuple[int, str, int], b: tuple[int, str, int]) -> None:
    assert uniforms(*a, 4).tobytes() == uniforms(*a, 4).tobytes()
    assert (uniforms(*a, 4).tobytes() == uniforms(*b, 4).tobytes()) == (a == b)


def test_digits_of_the_parts_do_not_run_together() -> None:
    names = [(1, "2", 3), (12, "", 3), (1, "23", 3), (1, "", 23), (1, "\x003", 2), (1, "3", 2), (1, "2\x00", 3)]
    assert len({stream_key(*n) for n in names}) == len(names)


def test_values_lie_below_one_and_have_53_bits() -> None:
    noise = uniforms(5, "a", 0, 100_000)
    assert noise.dtype == np.float64
    assert noise.min() >= 0 and noise.max() < 1
    assert (noise * 2**53 == np.floor(noise * 2**53)).all()
    assert ((noise * 2**53).astype(np.uint64) & np.uint64(1)).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "draws",
    [
        uniforms(0, "row", 0, 50_000),
        np.concatenate([uniforms(0, f"row-{i}", 0, 1) for i in range(20_000)]),
        np.concatenate([uniforms(0, "row", i, 1) for i in range(20_000)]),
        np.concatenate([uniforms(i, "row", 0, 1) for i in range(20_000)]),
        np.concatenate([uniforms(0, f"row-{i}", 0, 40)[39:] for i in range(20_000)]),
    ],
    ids=["positions", "rows", "samples", "seeds", "rows-at-position-39"],
)
def test_uniform_along_every_part_of_the_name(draws: np.ndarray) -> None:
    assert kstest(draws, "uniform").pvalue > 1e-3
    assert len(np.unique(draws)) == len(draws)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / np.sqrt(len(draws))


def test_streams_are_not_correlated() -> None:
    streams = np.stack([uniforms(s, f"r{r}", i, 5000) for s, r, i in itertools.product(range(2), range(3), range(3))])
    correlations = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlations).max() < 5 / np.sqrt(5000)


def philox(key: int, counter: int) -> list[int]:
    """Philox 4x64 with ten rounds, from the paper (Salmon et al., 2011)."""
    mask = 2**64 - 1
    x = [(counter >> 64 * i) & mask for i in range(4)]
    k0, k1 = key & mask, key >> 64
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(b >> 64) ^ x[1] ^ k0, b & mask, (a >> 64) ^ x[3] ^ k1, a & mask]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return x


@given(NAMES)
def test_the_generator_is_the_papers(name: tuple[int, str, int]) -> None:
    words = [w for counter in (1, 2, 3) for w in philox(stream_key(*name), counter)]
    assert uniforms(*name, 12).tolist() == [(w >> 11) / 2**53 for w in words]
