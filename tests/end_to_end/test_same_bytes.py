"""One plan, one set of rows: whatever the batch, the shards, the threads, the order of the input and the replicas."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.small_runs import RAY, as_bytes, assert_same_rows, generate, read, started_generate, write

ROWS = 30
OPTIONS = (
    "sampling.n=2", "sampling.temperature=1", "sampling.seed=5", "source.id_column=id", "source.sampling_column=how",
    "stats.top_logprobs=3", "stats.prompt_logprobs=true", "source.keep_columns=[topic]",
)  # fmt: skip


def test_the_comparison_means_something(reference: Path) -> None:
    table = read(reference)
    assert table.num_rows == 2 * ROWS
    assert set(table.column("error_code").to_pylist()) == {None, "NULL_PROMPT", "EMPTY_PROMPT"}
    assert {"stop", "length", "error"} == set(table.column("finish_reason").to_pylist())
    texts = table.column("text").to_pylist()
    assert len(set(texts)) > ROWS, "samples differ from row to row and from sample to sample"
    logprobs = table.column("token_logprobs")
    nudged = [None if row is None else [x * (1 + 2**-20) for x in row] for row in logprobs.to_pylist()]
    changed = pa.array(nudged, logprobs.type)
    place = table.schema.get_field_index("token_logprobs")
    assert as_bytes(table.set_column(place, "token_logprobs", changed)) != as_bytes(table)
    assert as_bytes(table.set_column(place, "token_logprobs", logprobs)) == as_bytes(table)


@pytest.mark.parametrize(
    "option",
    [
        "engine.max_num_seqs=3", "engine.max_num_seqs=16", "engine.max_num_seqs=auto", "engine.prefix_caching=false",
        "output.rows_per_shard=7", "output.rows_per_shard=1",
        "engine.max_num_batched_tokens=32", "engine.max_num_batched_tokens=1000",
        "cluster.cpus_per_replica=2", "output.compression=none",
    ],
)  # fmt: skip
def test_what_only_changes_how_fast(option: str, source: Path, reference: Path, tmp_path: Path) -> None:
    more = () if option.startswith("cluster.") else ("cluster.cpus_per_replica=1",)
    assert generate(source, tmp_path / "out", "cluster=inline", *more, option, *OPTIONS) == 0
    assert_same_rows(reference, tmp_path / "out")
    if not option.startswith("output."):
        parts = [list((out / "data").iterdir()) for out in (reference, tmp_path / "out")]
        assert [p.read_bytes() for p in parts[0]] == [p.read_bytes() for p in parts[1]], "the files too"


def test_a_common_beginning_and_several_samples(source: Path, tmp_path: Path) -> None:
    """What is computed once for all rows and samples is what each would have computed for itself."""
    header = "Weather report for Larkfield, Monday: the morning brings rain. " * 4
    options = (
        f"source.template='{header}{{{{ prompt }}}}'", "sampling.n=3", "sampling.temperature=1", "source.id_column=id",
        "source.sampling_column=how", "stats.top_logprobs=2", "source.limit=16",
    )  # fmt: skip
    reference = tmp_path / "reference"
    assert generate(source, reference, *options, "engine.prefix_caching=false", "engine.max_num_seqs=1") == 0
    table = read(reference)
    assert table.num_rows == 3 * 16 and max(row["prompt_tokens"] for row in table.to_pylist()) > 64
    assert {"stop", "length"} <= set(table.column("finish_reason").to_pylist())
    for more in ("engine.max_num_seqs=5", "output.rows_per_shard=7", "cluster.cpus_per_replica=2"):
        output = tmp_path / more.partition("=")[0]
        assert generate(source, output, *options, "cluster=inline", more) == 0
        assert_same_rows(reference, output)


def test_the_inputs_order_and_division(source: Path, reference: Path, tmp_path: Path) -> None:
    table = pq.read_table(source)
    shuffled = table.take([(7 * i + 3) % ROWS for i in range(ROWS)])
    for number, start in enumerate(range(0, ROWS, 11)):
        write(shuffled.slice(start, 11), tmp_path / "in" / f"{number}.parquet")
    assert generate(tmp_path / "in", tmp_path / "out", "output.rows_per_shard=8", *OPTIONS) == 0
    assert_same_rows(reference, tmp_path / "out")


def test_a_rows_neighbours(source: Path, reference: Path, tmp_path: Path) -> None:
    alone = write(pq.read_table(source).slice(4, 1), tmp_path / "one.parquet")
    assert generate(alone, tmp_path / "out", *OPTIONS) == 0
    chosen = pc.field("row_id") == "row-0004"
    assert as_bytes(read(reference).filter(chosen)) == as_bytes(read(tmp_path / "out"))


def test_another_seed_is_another_output(source: Path, reference: Path, tmp_path: Path) -> None:
    assert generate(source, tmp_path / "out", *OPTIONS, "sampling.seed=6") == 0
    assert as_bytes(read(reference)) != as_bytes(read(tmp_path / "out"))


@pytest.mark.ray
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_replicas(replicas: int, source: Path, reference: Path, tmp_path: Path) -> None:
    options = (*RAY, f"cluster.replicas={replicas}", "output.rows_per_shard=4", *OPTIONS)
    with started_generate(source, tmp_path / "out", *options) as run:
        assert run.finish()[0] == 0
        assert run.left_behind() == []
    assert_same_rows(reference, tmp_path / "out")
