"""Faults 15, 31, 32 and 36: storage that is full, forbidden, damaged or gone; the same command repairs what can be repaired."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.verify import main as verify
from tests.small_runs import (
    INLINE,
    Stage,
    assert_same_rows,
    generate,
    manifest,
    overrides,
    parts,
    started,
    started_generate,
)

OPTIONS = ("source.id_column=id", "source.sampling_column=how", "output.rows_per_shard=10")
ROWS, SHARDS = 80, 8


@pytest.fixture
def done(reference: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reference, tmp_path / "done")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; skip where none may be mounted."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_fault_15_a_full_disk(
    source: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "128k") as disk:
        filler = disk / "filler"
        output = disk / "out"
        filler.write_bytes(bytes(64 * 1024))
        assert generate(source, output, *OPTIONS) == 75
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("promptmill: no space for ") and "free some and run again" in last
        assert not (output / "_job" / "manifest.json").exists()
        before = parts(output)
        assert len(before) < SHARDS
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert generate(source, output, *OPTIONS) == 0
        assert {name: parts(output)[name] for name in before} == before
        assert_same_rows(reference, output)


def test_fault_15_a_limit_on_file_size(source: Path, tmp_path: Path) -> None:
    code = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" \
           "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n" \
           "from jobs.generate import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    output = tmp_path / "out"
    with started(["-c", code, *overrides(source, output, *INLINE, *OPTIONS)], output) as run:
        exit_code, text = run.finish()
    assert exit_code == 75, text
    assert "no space for " in text.splitlines()[-1]
    assert not list((output / "data").iterdir()) if (output / "data").exists() else True
    assert generate(source, output, *OPTIONS) == 0


def test_a_folder_that_may_not_be_written(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert generate(source, disk / "out", *OPTIONS) == 2
    assert "Read-only file system" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_is_removed_in_mid_run(source: Path, reference: Path, tmp_path: Path) -> None:
    output, stage = tmp_path / "out", Stage(tmp_path / "stage")
    with started_generate(source, output, *INLINE, *OPTIONS, stage=stage) as run:
        run.wait_at(stage)
        shutil.rmtree(output, ignore_errors=True)
        stage.open()
        code, text = run.finish()
    assert code in (1, 2), text
    assert "Traceback" not in text and text.splitlines()[-1].startswith("promptmill: ")
    assert not (output / "_job" / "manifest.json").exists()
    assert generate(source, output, *OPTIONS) == 0, "the same command makes it whole"
    assert_same_rows(reference, output)


def test_fault_31_a_flipped_bit_is_named_and_repaired(
    source: Path, reference: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = sorted((done / "data").iterdir())[3]
    before = parts(done)
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 4
    victim.write_bytes(content)
    assert verify([f"output.path={done}"]) == 4
    assert f"data/{victim.name}: " in capsys.readouterr().out
    assert generate(source, done, *OPTIONS) == 0
    after = parts(done)
    assert [name for name in after if after[name][:2] != before[name][:2]] == [victim.name], "just that part"
    assert verify([f"output.path={done}"]) == 0
    assert_same_rows(reference, done)


def test_fault_32_a_deleted_part_is_named_and_made_again(
    source: Path, reference: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = sorted((done / "data").iterdir())[2]
    before = parts(done)
    victim.unlink()
    assert verify([f"output.path={done}"]) == 4
    assert f"data/{victim.name}: is missing" in capsys.readouterr().out
    assert generate(source, done, *OPTIONS) == 0
    after = parts(done)
    assert [name for name in after if after[name][:2] != before[name][:2]] == [victim.name]
    assert verify([f"output.path={done}"]) == 0
    assert_same_rows(reference, done)


def test_fault_40_a_foreign_file_is_named_and_stays(
    source: Path, reference: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (done / "data" / "notes.parquet").write_bytes(b"somebody's own")
    before = parts(reference)
    assert verify([f"output.path={done}"]) == 4
    assert "data/notes.parquet: does not belong to this output" in capsys.readouterr().out
    assert generate(source, done, *OPTIONS) == 0
    assert (done / "data" / "notes.parquet").read_bytes() == b"somebody's own"
    (done / "data" / "notes.parquet").unlink()
    assert {name: entry[2] for name, entry in parts(done).items()} == {name: entry[2] for name, entry in before.items()}
    assert verify([f"output.path={done}"]) == 0


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_a_damaged_file_of_the_job_is_repaired(name: str, source: Path, reference: Path, done: Path) -> None:
    file = done / "_job" / name
    file.write_bytes(file.read_bytes()[:100])
    before = parts(done)
    assert verify([f"output.path={done}"]) == 4
    assert generate(source, done, *OPTIONS) == 0
    assert parts(done) == before, "no part was made again"
    assert verify([f"output.path={done}"]) == 0


KILLED_WHILE_FINISHING = """
import os, signal, sys
from jobs.generate import main
from pipeline.store.local import LocalStore
put = LocalStore.put_if_absent
def fatal(self, name, data):
    if name == "_job/manifest.json":
        if sys.argv[1] == "after":
            put(self, name, data)
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, name, data)
LocalStore.put_if_absent = fatal
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_fault_36_killed_while_finishing(when: str, source: Path, reference: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with started(["-c", KILLED_WHILE_FINISHING, when, *overrides(source, output, *INLINE, *OPTIONS)], output) as run:
        assert run.finish()[0] == -signal.SIGKILL
    before = parts(output)
    assert len(before) == SHARDS
    assert generate(source, output, *OPTIONS) == 0
    assert parts(output) == before, "no part was made again"
    assert manifest(output)["totals"] == manifest(reference)["totals"]
    assert_same_rows(reference, output)
    assert os.listdir(output / "_job" / "tmp") == [], "nor is anything of the killed one left"  # noqa: PTH208


def test_fault_40_a_folder_with_somebodys_files_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    (output / "data").mkdir(parents=True)
    mine = {output / "README.md": b"# Mine", output / "data" / "train.parquet": b"my own"}
    for path, content in mine.items():
        path.write_bytes(content)
    assert generate(source, output, *OPTIONS) == 2
    told = capsys.readouterr().err
    assert "README.md, data/train.parquet; nothing was touched" in told
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == mine


def test_an_empty_part_and_a_folder_in_the_place_of_one_are_made_again(
    source: Path, reference: Path, done: Path
) -> None:
    first, second = sorted((done / "data").iterdir())[:2]
    first.write_bytes(b"")
    second.unlink()
    second.mkdir()
    assert generate(source, done, *OPTIONS) == 0
    assert verify([f"output.path={done}"]) == 0
    assert_same_rows(reference, done)


def test_a_part_without_its_end_is_set_aside_by_the_next_start(source: Path, reference: Path, done: Path) -> None:
    first, second = sorted((done / "data").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-9])
    second.unlink()
    assert generate(source, done, *OPTIONS) == 1
    assert generate(source, done, *OPTIONS) == 0
    assert verify([f"output.path={done}"]) == 0
    assert_same_rows(reference, done)
