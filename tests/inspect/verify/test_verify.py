"""Faults 31 and 32 and their like: whatever is damaged is named, and doing what the line says repairs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.options.restore import job_of
from pipeline.inspect.config import InspectedOutput, VerifyConfig
from pipeline.inspect.verify.findings import REMAKE
from pipeline.inspect.verify.verify import verify
from pipeline.planning.fingerprint import digest
from tests.example_counts import examples
from tests.inspect.finished import ROWS, SAMPLES, SHARDS, Output, with_value
from tests.small_runs import write


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


class TestIntact:
    def test_an_output_as_it_was_made(self, output: Output, numbered: Output) -> None:
        assert (output.verify().code, output.verify().lines) == (
            0, [f"complete and intact: {SHARDS} parts, {ROWS} input rows, {ROWS * SAMPLES} output rows"],
        )  # fmt: skip
        assert numbered.verify().lines == ["complete and intact: 2 parts, 7 input rows, 13 output rows"]

    def test_nothing_is_changed(self, output: Output) -> None:
        def files() -> dict[str, tuple[int, bytes]]:
            return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in output.path.rglob("*") if p.is_file()}

        before = files()
        assert output.verify().code == 0
        assert files() == before

    def test_the_counts_are_those_of_another_reader(self, numbered: Output) -> None:
        duckdb = pytest.importorskip("duckdb")
        (rows, completions), *_ = duckdb.sql(
            f"select count(distinct row_id), count(*) from '{numbered.path}/data/*.parquet'"
        ).fetchall()
        assert numbered.verify().lines[-1].endswith(f"{rows} input rows, {completions} output rows")

    def test_no_rows(self, tmp_path: Path) -> None:
        empty = Output(tmp_path / "empty", write({"prompt": pa.array([], pa.string())}, tmp_path / "none.parquet"))
        assert empty.generate() == 0
        assert empty.verify("replay=2").lines == [
            "replay: 0 of 0 output rows are the same, bit for bit", "complete and intact: 1 part, 0 input rows, 0 output rows"
        ]  # fmt: skip

    def test_what_a_run_makes_meanwhile_is_not_set_aside(self, output: Output) -> None:
        manifest = output.path / "_job" / "manifest.json"
        done = manifest.read_bytes()
        manifest.unlink()
        lines: list[str] = []

        def tell(line: str) -> None:
            lines.append(line)
            manifest.write_bytes(done)  # the run ends

        config = VerifyConfig(output=InspectedOutput(path=str(output.path)))
        assert verify(config, tell=tell, restore=job_of) == 4
        assert lines[0].startswith("_job/manifest.json: is not there")
        assert not (output.path / "_job" / "findings.json").exists()

    def test_a_folder_without_an_output(self, tmp_path: Path) -> None:
        found = Output(tmp_path, tmp_path).verify()
        assert (found.code, len(found.lines)) == (2, 1)
        assert "holds no output" in found.lines[0]


def flip(path: Path, at: int, by: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= by
    path.write_bytes(data)


def footer_start(path: Path) -> int:
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


REGIONS: dict[str, Callable[[Path], int]] = {
    "magic at the start": lambda path: 1,
    "first page": lambda path: pq.read_metadata(path).row_group(0).column(0).data_page_offset + 2,
    "a page in the middle": lambda path: footer_start(path) // 2,
    "page index": lambda path: footer_start(path) - 3,
    "footer": lambda path: footer_start(path) + 40,
    "our own metadata": lambda path: path.read_bytes().index(b"promptmill.report") + 24,
    "length of the footer": lambda path: path.stat().st_size - 8,
    "magic at the end": lambda path: path.stat().st_size - 1,
}


class TestBytes:
    @pytest.mark.parametrize("region", REGIONS)
    def test_a_bit_flips(self, region: str, output: Output) -> None:
        flip(output.parts[1], REGIONS[region](output.parts[1]))
        found = output.verify()
        assert found.code == 4
        assert found.findings and found.findings == found.about(output.name(1))
        assert all(line.endswith(REMAKE) for line in found.findings)

    @given(place=st.floats(0, 1, exclude_max=True), by=st.integers(1, 255), part=st.integers(0, SHARDS - 1))
    @settings(max_examples=examples(30))
    def test_any_byte_changes(
        self, place: float, by: int, part: int, original: Output, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        damaged = original.copied(tmp_path_factory.mktemp("damaged") / "out")
        path = damaged.parts[part]
        flip(path, int(place * path.stat().st_size), by)
        found = damaged.verify()
        assert found.code == 4
        assert found.findings and found.findings == found.about(damaged.name(part))
        shutil.rmtree(damaged.path.parent)

    def test_a_page_is_named_by_row_group_and_column(self, output: Output) -> None:
        column = pq.read_metadata(output.parts[0]).row_group(0).column(0)
        flip(
            output.parts[0],
            (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1,
        )
        (line,) = [line for line in output.verify().findings if "cannot be read" in line]
        assert line.startswith(f"{output.name(0)}: row group 0, column row_id: cannot be read: ")
        assert "CRC checksum" in line

    def test_a_damaged_page_is_found_without_a_manifest(self, output: Output) -> None:
        flip(output.parts[0], REGIONS["a page in the middle"](output.parts[0]))
        (output.path / "_job" / "manifest.json").unlink()
        assert len(output.verify().about(output.name(0))) == 1

    @pytest.mark.parametrize("size", [0, 3, 100])
    def test_a_part_is_cut_off(self, size: int, output: Output) -> None:
        output.parts[2].write_bytes(output.parts[2].read_bytes()[:size])
        found = output.verify()
        assert found.code == 4 and found.findings == found.about(output.name(2))


class TestMend:
    """What the lines say to do does repair it, and nothing else is made again."""

    def test_a_flipped_bit(self, output: Output) -> None:
        rows, stamps = output.table(), output.stamps()
        flip(output.parts[1], 500)
        (name,) = {line.split(": ")[0] for line in output.verify().findings}
        assert output.generate() == 0
        assert output.verify().code == 0
        assert output.table().equals(rows)
        assert [n for n, stamp in output.stamps().items() if stamps[n] != stamp] == [Path(name).name]

    def test_a_part_is_deleted(self, output: Output) -> None:
        stamps, name, content = output.stamps(), output.name(1), output.parts[1].read_bytes()
        output.parts[1].unlink()
        found = output.verify()
        assert (found.code, found.findings) == (
            4, [f"{name}: is missing; run the same command again, which makes just this part"],
        )  # fmt: skip
        assert output.generate() == 0
        assert output.verify().code == 0
        assert (output.path / name).read_bytes() == content
        assert {n for n, stamp in output.stamps().items() if stamps[n] != stamp} == {Path(name).name}

    def test_a_foreign_file(self, output: Output) -> None:
        (output.path / "data" / "notes\nof mine.parquet").write_text("not Parquet")
        (output.path / "data" / "more").mkdir()
        shutil.copy(output.parts[0], output.path / "data" / "more" / "copy.parquet")
        found = output.verify()
        assert found.code == 4
        assert [line.split(":")[0] for line in found.findings] == [
            "data/more/copy.parquet",
            "data/notes of mine.parquet",
        ]
        assert all(finding.endswith("; move it elsewhere") for finding in found.findings), "it is not ours to move"
        assert output.generate() == 0
        assert len(output.verify().findings) == 2
        (output.path / "data" / "notes\nof mine.parquet").unlink()
        shutil.rmtree(output.path / "data" / "more")
        assert output.verify().code == 0
        assert not (output.path / "_job" / "set_aside").exists()

    def test_a_link_to_a_folder_with_a_part(self, output: Output, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        shutil.copy(output.parts[0], tmp_path / "other" / "x.parquet")
        (output.path / "data" / "more").symlink_to(tmp_path / "other")
        (line,) = output.verify().findings
        assert line.startswith("data/more: is a link") and line.endswith("; move it elsewhere")

    @pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
    def test_a_file_of_the_job_is_damaged(self, name: str, output: Output) -> None:
        path, stamps = output.path / "_job" / name, output.stamps()
        path.write_bytes(path.read_bytes()[:-10])
        (line,) = output.verify().findings
        assert line.startswith(f"_job/{name}: ")
        assert line.endswith(
            "; run the same command again, which sets this file aside and writes it anew; the parts stay"
        )
        assert output.generate() == 0
        assert output.verify().code == 0
        assert output.stamps() == stamps

    def test_the_plan_is_missing(self, output: Output) -> None:
        (output.path / "_job" / "plan.json").unlink()
        found = output.verify()
        assert found.code == 4 and found.findings[0].startswith(
            "_job/plan.json: is missing, so no part was checked; run"
        )
        assert output.generate() == 0
        assert output.verify().code == 0

    def test_an_unfinished_output(self, output: Output) -> None:
        (output.path / "_job" / "manifest.json").unlink()
        output.parts[0].unlink()
        found = output.verify()
        assert (found.code, found.findings) == (
            4, ["_job/manifest.json: is not there: the output is not finished, 2 of 3 parts are committed; "
                "run the same command again, which does the rest"],
        )  # fmt: skip
        assert output.generate() == 0
        assert output.verify().code == 0


class TestManifest:
    @given(kept=st.floats(0, 1, exclude_max=True))
    @settings(max_examples=examples(20))
    def test_a_cut_off_manifest(self, kept: float, original: Output, tmp_path_factory: pytest.TempPathFactory) -> None:
        damaged = original.copied(tmp_path_factory.mktemp("cut") / "out")
        path = damaged.path / "_job" / "manifest.json"
        data = path.read_bytes().rstrip()
        path.write_bytes(data[: int(kept * len(data))])
        found = damaged.verify()
        assert (found.code, len(found.findings)) == (4, 1)
        assert found.findings[0].startswith("_job/manifest.json: cannot be used: ")
        shutil.rmtree(damaged.path.parent)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda m: m.update(plan_id="0" * 64), "is of plan 0000"),
            (lambda m: m["parts"].pop(), "does not list the 3 parts of the plan: 2 parts"),
            (lambda m: m["parts"].reverse(), "does not list the 3 parts of the plan: "),
            (lambda m: m["parts"][0].update(rows=5), "4 were planned"),
            (lambda m: m["totals"].update(completion_tokens=1), "says completion_tokens 1, the parts have "),
            (
                lambda m: m["totals"].update(errors={}),
                "says errors {}, the parts have {'EMPTY_PROMPT': 2, 'NULL_PROMPT': 2}",
            ),
            (
                lambda m: m["totals"].update(rows="many"),
                'cannot be used: totals.rows: must be a whole number, not "many"',
            ),
            (lambda m: m["totals"].update(cut_off=3), "says cut_off 3, the parts have 0"),
            (lambda m: m["totals"]["finish_reasons"].update(length=1), "says finish_reasons {"),
            (lambda m: m.update(environment=[]), "cannot be used: environment: must be an object"),
            (lambda m: m["parts"][0].update(file=[]), "cannot be used: parts.file: must be text"),
            (lambda m: m["parts"][0].update(sha256=None), "cannot be used: parts.sha256: must be text, not null"),
            (
                lambda m: m["environment"].update(x=nested(99)),
                "nested more than 64 deep",
            ),
            (lambda m: m.update(more=1), "cannot be used: more: no such key is known"),
            (lambda m: m.clear(), "cannot be used: plan_id: is missing"),
        ],
    )
    def test_something_in_it_was_changed(self, change: Callable[[Any], Any], told: str, output: Output) -> None:
        output.edit_json("manifest.json", change)
        found = output.verify()
        assert (found.code, len(found.findings)) == (4, 1), found.lines
        assert found.findings[0].startswith(f"_job/manifest.json: {told}") or told in found.findings[0]
        assert found.findings[0].startswith("_job/manifest.json: ")

    def test_what_is_nested_without_end(self, output: Output) -> None:
        (output.path / "_job" / "manifest.json").write_text("[" * 200_000)
        (line,) = output.verify().findings
        assert line.startswith("_job/manifest.json: cannot be used: ")

    def test_totals_of_an_earlier_version_say_less(self, output: Output) -> None:
        def older(manifest: Any) -> None:
            for key in ("finish_reasons", "lengths", "clamped_rows", "cut_off"):
                del manifest["totals"][key]

        output.edit_json("manifest.json", older)
        assert output.verify().code == 0

    def test_another_sha256(self, output: Output) -> None:
        output.edit_json("manifest.json", lambda m: m["parts"][1].update(sha256="0" * 64))
        assert output.verify().findings == [f"{output.name(1)}: its SHA-256 is not the manifest's; {REMAKE}"]


def sealed(plan: Any, **changed: int) -> None:
    """Change a plan so that only what it speaks of can tell."""
    plan.update(changed)
    del plan["sha256"]
    plan["sha256"] = digest(plan)


class TestPlan:
    @pytest.mark.parametrize(
        "change",
        [
            lambda p: p["files"][0].update(rows=12), lambda p: p.update(rows_per_shard="16"),
            lambda p: p.update(rows_per_shard=16.0), lambda p: p.update(rows_per_shard=2, shards=6),
            lambda p: p.update(files=[]), lambda p: p.update(rows=10),
            lambda p: (p.update(rows_per_shard=2, shards=6), p.pop("sha256")),
            lambda p: sealed(p, rows_per_shard=2, shards=6), lambda p: p.pop("sha256"),
        ],
    )  # fmt: skip
    def test_an_edited_plan_is_not_believed(self, change: Callable[[Any], Any], output: Output) -> None:
        output.edit_json("plan.json", change)
        before = output.stamps()
        assert output.generate() == 2
        assert output.stamps() == before

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda p: p["fingerprint"]["sampling"].update(seed=1), "its plan_id is not that of its content"),
            (lambda p: p.update(rows=10), "it has 10 rows, its files 11"),
            (lambda p: p["files"][0].update(rows=12), "its files are not those of its fingerprint"),
            (lambda p: p.update(shards=2), "it has 2 shards, not 3"),
            (lambda p: p.update(rows_per_shard=0), "rows_per_shard: must be at least 1, not 0"),
            (lambda p: p.update(rows_per_shard=None), "rows_per_shard: must be a whole number, not null"),
            (lambda p: p.update(rows_per_shard=2, shards=6), "it was changed after it had been written"),
            (lambda p: p.pop("sha256"), "sha256: is missing"),
            (lambda p: sealed(p, rows_per_shard=2, shards=6), "has 6 shards, which are not the 3 parts"),
            (lambda p: p.update(format=9), "plan format 9"),
            (lambda p: p.pop("files"), "files: is missing"),
            (
                lambda p: p["fingerprint"].update(x=nested(99)),
                "nested more than 64 deep",
            ),
        ],
    )
    def test_something_in_it_was_changed(self, change: Callable[[Any], Any], told: str, output: Output) -> None:
        output.edit_json("plan.json", change)
        found = output.verify()
        assert (found.code, len(found.findings)) == (4, 1), found.lines
        assert found.findings[0].startswith("_job/plan.json: ") and told in found.findings[0]
        stamps = output.stamps()
        assert output.generate() == 0, "it is set aside, and written anew"
        assert output.verify().code == 0 and output.stamps() == stamps


class TestFooter:
    def test_it_is_of_another_plan(self, output: Output) -> None:
        output.rewrite(0, footer={"promptmill.plan_id": "f" * 64})
        (line,) = output.verify().findings
        assert line.startswith(f"{output.name(0)}: its footer says plan ffffffff, not ")

    def test_it_is_of_another_part(self, output: Output) -> None:
        shutil.copy(output.parts[0], output.parts[1])
        found = output.verify()
        assert found.findings == found.about(output.name(1))
        told = "\n".join(found.findings)
        assert "its SHA-256 is not the manifest's" in told
        assert "its footer says that it is part 0" in told
        assert f"has row_id 'row-0', which {output.name(0)} has too (and 3 more rows)" in told

    def test_it_counts_other_rows(self, output: Output) -> None:
        report = json.loads(pq.read_schema(output.parts[0]).metadata[b"promptmill.report"])
        output.rewrite(0, footer={"promptmill.report": json.dumps({**report, "prompt_tokens": 1})})
        (line,) = output.verify().findings
        assert line.startswith(f"{output.name(0)}: its footer says prompt_tokens 1, its rows have ")

    def test_columns(self, output: Output) -> None:
        output.rewrite(0, lambda table: table.drop_columns(["token_ranks"]))
        output.rewrite(1, lambda table: table.set_column(2, "topic", table.column("topic").cast(pa.float32())))
        first, second = output.verify().findings
        assert first.startswith(f"{output.name(0)}: its columns are row_id, sample_index, topic, ")
        assert second.startswith(f"{output.name(2)}: column topic is double, not float as in the parts before; ")


def reordered(order: list[int]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.take(order)


class TestRows:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (reordered([0, 1, 2, 3, 4, 5, 6]), "ends after sample 0 of 'row-3', which has 2"),
            (reordered([0, 1, 2, 3, 4, 5]), "holds 3 input rows; 4 were planned"),
            (reordered([1, 0, 2, 3, 4, 5, 6, 7]), "row 0 (row_id 'row-0', sample 1): comes first"),
            (reordered([0, 2, 1, 3, 4, 5, 6, 7]), "row 1 (row_id 'row-1', sample 0): comes after sample 0 of 'row-0'"),
            (reordered([0, 1, 0, 1, 4, 5, 6, 7]), "has row_id 'row-0', which it has twice"),
            (with_value("row_id", 2, lambda _: None), "row 2 (row_id None, sample 0): row_id or sample_index is null"),
        ],
    )
    def test_a_row_is_not_where_it_should_be(self, change: Any, told: str, output: Output) -> None:
        output.rewrite(0, change)
        found = output.verify()
        assert found.code == 4
        assert any(told in line for line in found.about(output.name(0))), found.lines

    def test_a_numbered_row(self, numbered: Output) -> None:
        numbered.rewrite(1, with_value("row_id", 0, lambda _: "b.parquet:5"))
        told = "row group 0, row 0 (row_id 'b.parquet:5', sample 0): is there where 'b.parquet:2' is due"
        assert any(told in line for line in numbered.verify().about(numbered.name(1)))

    def test_a_numbered_row_is_missing(self, numbered: Output) -> None:
        last = numbered.table().slice(9).num_rows
        numbered.rewrite(1, lambda table: table.slice(0, last - 1))
        assert any("ends before row 'b.parquet:3'" in line for line in numbered.verify().findings)

    def test_ids_that_are_in_two_parts(self, output: Output) -> None:
        duckdb = pytest.importorskip("duckdb")
        output.rewrite(
            2, lambda t: with_value("row_id", 1, lambda _: "row-1")(with_value("row_id", 0, lambda _: "row-1")(t))
        )
        (line,) = output.verify().findings
        assert line == f"{output.name(2)}: has row_id 'row-1', which {output.name(0)} has too; {REMAKE}"
        twice = duckdb.sql(
            f"select row_id from '{output.path}/data/*.parquet' group by row_id, sample_index having count(*) > 1"
        ).fetchall()
        assert {row_id for (row_id,) in twice} == {"row-1"}


ROW, ERROR = 0, 4  # of the first part: row-0 has a text, row-2 is an error


def at(place: int, change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:place], change(values[place]), *values[place + 1 :]]


EDITS: list[tuple[str, int, Callable[[Any], Any], str]] = [
    ("finish_reason", ROW, lambda _: "tired", "finish_reason is 'tired'"),
    ("finish_reason", ROW, lambda _: None, "finish_reason is ''"),
    ("finish_reason", ROW, lambda _: "error", "finish_reason is 'error', error_code ''"),
    ("error_code", ERROR, lambda _: "TYPO", "finish_reason is 'error', error_code 'TYPO'"),
    ("error_code", ROW, lambda _: "TIMEOUT", "and error_code or error_message is set"),
    ("error_message", ERROR, lambda _: None, "an error without error_message"),
    ("text", ROW, lambda _: None, "and text null"),
    ("text", ERROR, lambda _: "", "finish_reason is 'error', and text set"),
    ("stop_reason", ERROR, lambda _: "x", "finish_reason is 'error', and stop_reason set"),
    ("prompt_tokens", ROW, lambda _: 0, "prompt_tokens is 0"),
    ("prompt_tokens", ROW, lambda n: n + 1, "prompt_token_ids has"),
    ("prompt_tokens", ROW, lambda _: 255, "exceed max_model_len 256"),
    ("completion_tokens", ROW, lambda n: n + 1, "token_ids has"),
    ("completion_tokens", ROW, lambda _: 7, "completion_tokens is 7, max_tokens 6"),
    ("completion_tokens", ERROR, lambda _: 1, "an error with completion_tokens 1"),
    ("token_ids", ROW, lambda ids: ids[1:], "token_ids has"),
    ("token_ids", ROW, lambda _: None, "token_ids is null"),
    ("token_ids", ERROR, lambda _: [], "token_ids is set in a row with an error"),
    ("token_ids", ROW, at(1, lambda _: 1024), "token_ids: 1024 at token 1"),
    ("token_ids", ROW, at(1, lambda _: -1), "token_ids: -1 at token 1"),
    ("token_ids", ROW, at(1, lambda _: None), "token_ids: null at token 1"),
    ("token_logprobs", ROW, at(2, lambda _: 0.5), "token_logprobs: 0.5 at token 2"),
    ("token_logprobs", ROW, at(0, lambda _: float("nan")), "token_logprobs: nan at token 0"),
    ("token_logprobs", ROW, at(0, lambda _: float("-inf")), "token_logprobs: -inf at token 0"),
    ("cumulative_logprob", ROW, lambda _: float("nan"), "cumulative_logprob is nan"),
    (
        "token_logprobs",
        ROW,
        at(0, lambda x: float(np.nextafter(np.float32(x), np.float32(-9)))),
        "cumulative_logprob is ",
    ),
    ("cumulative_logprob", ROW, lambda x: x * (1 + 1e-12), "the sum of token_logprobs"),
    ("cumulative_logprob", ROW, lambda _: None, "cumulative_logprob is null"),
    ("cumulative_logprob", ERROR, lambda _: 0.0, "cumulative_logprob is set"),
    ("token_entropies", ROW, at(0, lambda _: -0.1), "token_entropies: -0.1"),
    ("token_entropies", ROW, at(0, lambda _: 6.95), "token_entropies: 6.9"),
    ("token_ranks", ROW, at(0, lambda _: 0), "token_ranks: 0 at token 0"),
    ("token_ranks", ROW, at(0, lambda _: 1025), "token_ranks: 1025 at token 0"),
    ("token_ranks", ROW, lambda ranks: ranks[:-1], "token_ranks has"),
    ("top_token_ids", ROW, at(0, lambda top: top[1:]), "top_token_ids has not 5 values for each token"),
    ("top_token_ids", ROW, lambda tops: tops[1:], "top_token_ids has not 5 values for each token"),
    ("top_token_ids", ROW, at(0, lambda top: [2000, *top[1:]]), "top_token_ids: 2000 at token 0"),
    ("top_token_logprobs", ROW, at(0, lambda top: top[::-1]), "top_token_logprobs rise"),
    ("prompt_token_ids", ROW, lambda ids: ids[1:], "prompt_token_ids has"),
    ("prompt_token_logprobs", ROW, at(0, lambda _: -1.0), "prompt_token_logprobs: -1.0 at token 0"),
    ("prompt_token_logprobs", ROW, at(1, lambda _: None), "prompt_token_logprobs: null at token 1"),
    ("prompt_token_logprobs", ROW, at(1, lambda _: 1.0), "prompt_token_logprobs: 1.0 at token 1"),
]


@pytest.mark.parametrize(("column", "row", "change", "told"), EDITS)
def test_a_value_is_edited(column: str, row: int, change: Callable[[Any], Any], told: str, output: Output) -> None:
    """Pages, sums and SHA-256 are as they should be: only the rows tell."""
    output.rewrite(0, with_value(column, row, change))
    found = output.verify()
    row_id = f"row-{row // SAMPLES}"
    lines = [line for line in found.about(output.name(0)) if f"row {row} (row_id '{row_id}', sample 0): " in line]
    assert found.code == 4
    assert any(told in line for line in lines), found.lines
    assert all(line.endswith(REMAKE) for line in lines)


def test_a_rank_that_is_not_the_tokens(output: Output) -> None:
    ranks = next(row for row in output.table().column("token_ranks").to_pylist() if row)
    place = ranks.index(min(ranks))
    output.rewrite(0, with_value("token_ranks", ROW, at(place, lambda rank: rank % 5 + 1)))
    (line,) = output.verify().findings
    assert f"{ranks[place] % 5 + 1} at token {place}, where its log-probability is not that of this rank" in line


def test_many_rows_are_one_line(output: Output) -> None:
    def worse(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("cumulative_logprob")
        return table.set_column(place, "cumulative_logprob", pa.array([-1.0] * table.num_rows))

    output.rewrite(1, worse)
    lines = [line for line in output.verify().about(output.name(1)) if "the sum of" in line]
    assert len(lines) == 1 and "more rows)" in lines[0]


class TestMixture:
    def test_parts_made_elsewhere_are_named(self, output: Output) -> None:
        there = json.loads(pq.read_schema(output.parts[2]).metadata[b"promptmill.environment"])
        changed = {**there, "torch": "1.0", "processor_class": "other"}
        output.rewrite(2, footer={"promptmill.environment": json.dumps(changed)})
        found = output.verify()
        assert found.code == 0
        (note,) = [line for line in found.lines if line.startswith("note: ")]
        assert note.startswith(f"note: {output.name(2)} was not made where {output.name(0)} was: ")
        assert f"torch: {there['torch']} → 1.0" in note and "→ other" in note

    def test_an_output_that_records_nothing_for_its_parts(self, output: Output) -> None:
        for index in range(SHARDS):
            output.rewrite(index, footer={"promptmill.environment": "{}"})
        assert output.verify().lines == [
            f"complete and intact: {SHARDS} parts, {ROWS} input rows, {ROWS * SAMPLES} output rows"
        ]


def test_how_far_it_is(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inspect.verify.verify.INTERVAL", 0.0)
    lines = output.verify().lines
    assert [line.split(" INFO ")[1] for line in lines if " INFO " in line] == [
        "0/3 parts · 0 rows · 0 findings", "1/3 parts · 4 rows · 0 findings", "2/3 parts · 8 rows · 0 findings"
    ]  # fmt: skip
