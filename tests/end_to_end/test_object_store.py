"""A whole job from a bucket into a bucket, with the bytes of one on a disk."""

from __future__ import annotations

from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from jobs.cli import main as promptmill
from jobs.verify import main as verify
from tests.small_runs import as_bytes, generate, prompts, read, write
from tests.store.bucket_server import Door
from tests.store.bucket_server import door as door
from tests.store.bucket_server import server as server

OPTIONS = ("source.id_column=id", "source.sampling_column=how", "output.rows_per_shard=5")
OUTPUT = "s3://bucket/runs/first"


def there(prefix: str) -> list[str]:
    found = boto3.client("s3").list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return [entry["Key"].removeprefix("runs/first/") for entry in found]


@pytest.fixture
def source(door: Door, tmp_path: Path) -> Path:
    file = write(prompts(20), tmp_path / "prompts.parquet")
    boto3.client("s3").upload_file(str(file), "bucket", "in/prompts.parquet")
    return file


def test_from_a_bucket_into_a_bucket(
    source: Path, door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("s3://bucket/in/prompts.parquet", OUTPUT, *OPTIONS) == 0
    assert generate(source, tmp_path / "local", *OPTIONS) == 0
    filesystem, path = fs.FileSystem.from_uri(OUTPUT)
    table = pq.read_table(f"{path}/data", filesystem=filesystem).sort_by([("row_id", "ascending")])
    assert as_bytes(table) == as_bytes(read(tmp_path / "local"))
    assert verify([f"output.path={OUTPUT}"]) == 0
    names = there("runs/")
    assert sorted(name for name in names if name.startswith("_job/") and "events" not in name) == [
        "_job/config.yaml", "_job/manifest.json", "_job/plan.json",
    ]  # fmt: skip
    capsys.readouterr()
    assert generate("s3://bucket/in/prompts.parquet", OUTPUT, *OPTIONS) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_an_output_in_a_bucket_is_shown(
    source: Path, door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(source, OUTPUT, *OPTIONS) == 0 and generate(source, tmp_path / "local", *OPTIONS) == 0
    assert promptmill(["report", OUTPUT]) == 0 and promptmill(["report", str(tmp_path / "local")]) == 0
    page = boto3.client("s3").get_object(Bucket="bucket", Key="runs/first/report.html")["Body"].read().decode()
    assert [len(page) > 10_000, page.count("<svg")] == [
        True,
        (tmp_path / "local/report.html").read_text().count("<svg"),
    ]
    capsys.readouterr()
    for words in (["show"], ["look"], ["show", "row_id=row-1"]):
        seen = [promptmill([words[0], where, *words[1:]]) for where in (OUTPUT, str(tmp_path / "local"))]
        assert seen[0] == seen[1]
    assert promptmill(["diff", OUTPUT, str(tmp_path / "local")]) == 0


def test_a_lost_part_is_made_again(source: Path, door: Door) -> None:
    assert generate(source, OUTPUT, *OPTIONS) == 0
    (victim, *_) = there("runs/first/data/")
    boto3.client("s3").delete_object(Bucket="bucket", Key=f"runs/first/{victim}")
    assert verify([f"output.path={OUTPUT}"]) == 4
    assert generate(source, OUTPUT, *OPTIONS) == 0
    assert verify([f"output.path={OUTPUT}"]) == 0


def test_a_store_without_put_if_absent_is_refused_and_nothing_is_left(
    source: Path, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    door.ignored = ("If-None-Match",)
    assert generate(source, OUTPUT, *OPTIONS) == 2
    assert "does not honour put-if-absent" in capsys.readouterr().err
    assert there("runs/") == []
    assert generate(source, OUTPUT, *OPTIONS, "output.allow_unsafe_store=true") == 0
