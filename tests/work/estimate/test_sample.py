"""A sample is spread evenly, is the same each time, and has the rows that the job makes of the same places."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.quick import QuickTokenizer, quick_tokenizer
from pipeline.engine.model.tokenizer import Tokenizer, load_tokenizer
from pipeline.planning.plan import InputFile, make_plan
from pipeline.work.estimate.sample import STRETCH, places, segments, take_sample
from pipeline.work.prepare import prepare
from tests.small_runs import MODEL, configured, prompts, write

ROWS = 40


@given(st.integers(0, 100_000), st.integers(1, 64))
def test_places_are_apart_and_reach_from_one_end_to_the_other(rows: int, stretches: int) -> None:
    most = stretches * STRETCH
    found = sorted(places(rows, most))
    assert all(0 <= start < stop <= rows for start, stop in found)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(found))
    taken = sum(stop - start for start, stop in found)
    assert taken == min(rows, most) if rows <= most else taken == most
    if rows > most:
        assert found[0][0] == 0 and (stretches == 1 or found[-1][1] == rows)


def test_the_first_places_are_spread_too() -> None:
    firsts = [start for start, _ in places(64_000, 64 * STRETCH)][:4]
    assert sorted(round(4 * start / 64_000) for start in firsts) == [0, 1, 2, 3]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_segments_are_the_rows_of_the_plan(sizes: list[int], rows_per_shard: int, data: st.DataObject) -> None:
    files = [InputFile(f"{i}", f"{i}", 1, size, "") for i, size in enumerate(sizes)]
    plan = make_plan(files, {"source": {"limit": None}}, rows_per_shard=rows_per_shard)
    start = data.draw(st.integers(0, plan.rows))
    stop = data.draw(st.integers(start, plan.rows))
    every = [(number, row) for number, size in enumerate(sizes) for row in range(size)]
    found = [(s.file, row) for s in segments(plan, start, stop) for row in range(s.start, s.stop)]
    assert found == every[start:stop]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(MODEL, 1024)


def test_the_rows_are_those_of_the_job(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write(prompts(ROWS), tmp_path / "in.parquet", row_group_size=7)
    job = prepare(configured(source, tmp_path / "out", source={"id_column": "id", "keep_columns": ["topic"]})).job
    sample = take_sample(job, tokenizer, 256, ROWS)
    assert [row.row_id for row in sample.rows] == [f"row-{i:04d}" for i in range(ROWS)]
    assert sample.errors() == {"NULL_PROMPT": 1, "EMPTY_PROMPT": 1} and sample.share == 1
    assert sample.kept.column("topic").to_pylist() == [f"topic {i % 4}" for i in range(ROWS)]
    lengths = sorted(len(tokenizer.encode_batch([t])[0]) for t in prompts(ROWS).column("prompt").to_pylist() if t)
    assert (sample.lengths()[0], sample.lengths()[-1]) == (lengths[0], lengths[-1])
    some = take_sample(job, tokenizer, 256, STRETCH)
    assert len(some.rows) == STRETCH and some.share == ROWS / STRETCH


def test_an_input_without_rows(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write({"prompt": pa.array([], pa.string())}, tmp_path / "in.parquet")
    sample = take_sample(prepare(configured(source, tmp_path / "out")).job, tokenizer, 256, 100)
    assert (sample.rows, sample.lengths(), sample.errors(), sample.share) == ((), [], {}, 0.0)


def test_the_quick_tokenizer_counts_like_the_other(tokenizer: Tokenizer) -> None:
    checkpoint = resolve(configured("in", "out").model)
    quick = quick_tokenizer(checkpoint.tokenizer, checkpoint.vocab_size)
    assert isinstance(quick, QuickTokenizer)
    texts = [text for text in prompts(8).column("prompt").to_pylist() if text]
    assert quick.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert (quick.bos_token_id, quick.vocab_size) == (tokenizer.bos_token_id, 1024)
    assert quick.encode_spans(texts[0]) == tokenizer.encode_spans(texts[0])
    assert quick.decode(quick.encode_batch(texts)[0]) == texts[0] and quick.token(5) == tokenizer.token(5)
