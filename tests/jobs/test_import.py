"""The command line of `import`, what it says, and what generate makes of the file; tests/prompts/imports has the formats."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.import_prompts import JOB, overrides
from jobs.options.compose import compose_runs
from pipeline.errors import InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.listing import open_source
from tests.small_runs import messages

ROOT = Path(__file__).parents[2]
ROWS = [{"id": f"r{i}", "question": f"What is {i}?", "n": i} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["import", *words]) == code
    out, err = capsys.readouterr()
    assert (err if code == 0 else out) == ""
    return out if code == 0 else err


@pytest.mark.parametrize(
    ("words", "same_as"),
    [
        (["a.jsonl", "b.parquet"], ["source.path=a.jsonl", "output.path=b.parquet"]),
        (["a b.jsonl", "c.jsonl", "out/"], ['source.path=["a b.jsonl",c.jsonl]', "output.path=out/"]),
        (["a.csv", "output.path=b.parquet"], ["output.path=b.parquet", "source.path=a.csv"]),
        (["source.path=a.csv", "b.parquet"], ["source.path=a.csv", "output.path=b.parquet"]),
        (["source.path=a.csv", "output.path=b.parquet"], ["source.path=a.csv", "output.path=b.parquet"]),
        (
            ["*.jsonl", "x${y}.parquet", "limit=1"],
            ["limit=1", 'source.path="*.jsonl"', r'output.path="x\${y}.parquet"'],
        ),
    ],
)
def test_words_that_are_paths(words: list[str], same_as: list[str]) -> None:
    assert sorted(overrides(words)) == sorted(same_as)


NAMES = [
    "a.jsonl",
    "a b.jsonl",
    "it's.jsonl",
    'say "a", {b}.jsonl',
    "x${y}.jsonl",
    "ü\n.jsonl",
    "(a],b.jsonl",
    "\\.jsonl",
    "12",
    "~",
    "lang=en.jsonl",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text(LINES)
    said(capsys, str(tmp_path / name), str(tmp_path / f"{name}.parquet"))
    assert pq.read_table(tmp_path / f"{name}.parquet").to_pylist() == ROWS


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "source.path is required: the prompts, e.g."),
        (["a.jsonl"], "import a.jsonl: into which file? promptmill import a.jsonl prompts.parquet"),
        (["a.jsonl", "b.parquet", "source.path=c"], "a.jsonl and source.path: both say what is read"),
        (
            ["a.jsonl", "b.parquet", "format=xml"],
            "format='xml': must be one of auto, jsonl, json, csv, tsv, text, files, ",
        ),
        (["a.jsonl", "b.parquet", "on_bad_line=drop"], "on_bad_line='drop': must be one of fail, skip"),
        (["a.jsonl", "b.parquet", "row_group_rows=0"], "row_group_rows=0: must be null or from 1 to 1000000"),
        (["a.jsonl", "b.parquet", "limit=0"], "limit=0: must be null (all rows) or a whole number from 1"),
        (["a.jsonl", "b.parquet", "columns=[a,a]"], "columns=['a', 'a']: must be without repetition"),
        (["a.csv", "b.parquet", "format=csv", "json_columns=[a]"], "json_columns=['a']: must be empty with format=csv"),
        (
            ["a.csv", "b.parquet", "source.encoding=utf9"],
            "source.encoding='utf9': must be null or an encoding that Python",
        ),
        (
            ["a.csv", "b.parquet", "source.encoding=hex"],
            "source.encoding='hex': must be null or an encoding that Python",
        ),
        (["a.csv", "b.parquet", "source.delimiter=ab"], "source.delimiter='ab': must be null or one character"),
        (["a.jsonl", "s3://bucket/b.parquet"], "output.path='s3://bucket/b.parquet': must be a local Parquet file"),
        (
            ["source.path=[]", "output.path=b.parquet"],
            "source.path=[]: must be a file, a folder, a glob or a URI, or a list",
        ),
        (["a.jsonl", "b.parquet", "sorce.path=x"], "sorce.path: no such key; did you mean source.path"),
        (["a.jsonl", "b.parquet"], "source.path='a.jsonl': there is no such file or directory"),
    ],
)
def test_what_is_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, *words, code=2)
    assert line.startswith(f"promptmill: {told}") and line.count("\n") == 1, line


def test_the_examples_compose() -> None:
    for _, command in JOB.examples:
        _, _, *words = shlex.split(command)
        (run,) = JOB.compose(parsed(words))  # type: ignore[misc]
        assert run.config is not None


def parsed(words: list[str]) -> Any:
    from jobs.options.arguments import parse

    return parse(words)


def test_what_is_said_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text(LINES)
    first, columns, command = said(capsys, str(tmp_path / "x.jsonl"), str(tmp_path / "x.parquet")).splitlines()
    size = (tmp_path / "x.parquet").stat().st_size
    assert first == f"{tmp_path}/x.parquet: 5 rows in 1 row group, {size:,} bytes, in less than a second"
    assert columns == "columns: id (text), question (text), n (int64)"
    assert command == (
        f"go on with: promptmill generate source.path={tmp_path}/x.parquet source.prompt_column=question source.id_column=id "
        "output.path=outputs/x"
    )


@pytest.mark.parametrize(
    ("row", "uses"),
    [
        ({"prompt": "a", "x": "b"}, []),
        ({"text": "a"}, ["source.prompt_column=text"]),
        ({"anything": "a", "n": 1}, ["source.prompt_column=anything"]),
        ({"a": "a", "b": "b"}, ["source.prompt_column=COLUMN"]),
        ({"messages": [{"role": "user", "content": "a"}]}, ["source.messages_column=messages"]),
        ({"talk": [{"role": "user", "content": "a"}], "prompt": "x"}, ["source.messages_column=talk"]),
        (
            {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "a"}], "n": 2}},
            ["source.messages_column=messages", "source.id_column=custom_id", "source.sampling_column=sampling"],
        ),
        (
            {"custom_id": "a", "body": {"prompt": "a", "n": 2}},
            ["source.id_column=custom_id", "source.sampling_column=sampling"],
        ),
    ],
)
def test_the_command_to_go_on_with(
    row: dict[str, Any], uses: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my rows.jsonl").write_text(json.dumps(row))
    line = said(capsys, str(tmp_path / "my rows.jsonl"), str(tmp_path / "my rows.parquet")).splitlines()[-1]
    program, job, *words = shlex.split(line.removeprefix("go on with: "))
    assert (program, job) == ("promptmill", "generate")
    assert words == [f'source.path="{tmp_path}/my rows.parquet"', *uses, 'output.path="outputs/my rows"']


def test_an_imported_file_is_generated_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests: list[dict[str, Any]] = [
        {
            "custom_id": f"r{i}",
            "body": {"model": "x", "prompt": f"Weather report for {i}", "max_tokens": i + 1, "seed": i},
        }
        for i in range(4)
    ]
    (tmp_path / "batch.jsonl").write_text("\n".join(map(json.dumps, requests)))
    command = said(capsys, str(tmp_path / "batch.jsonl"), str(tmp_path / "in.parquet")).splitlines()[-1]
    _, job, *words = shlex.split(command.removeprefix("go on with: "))
    words[-1] = f"output.path={tmp_path / 'out'}"
    model = f"model.path={ROOT / 'examples' / 'demo-model'}"
    assert main([job, *words, model, "cluster=inline", "sampling.ignore_eos=true"]) == 0
    rows = pq.read_table(tmp_path / "out" / "data").to_pylist()
    assert [(row["row_id"], row["prompt"], row["completion_tokens"]) for row in rows] == [
        (request["custom_id"], request["body"]["prompt"], request["body"]["max_tokens"]) for request in requests
    ]


FOREIGN = [
    "x.jsonl",
    "x.jsonl.gz",
    "x.json",
    "x.csv",
    "x.tsv",
    "x.txt",
    "a b's.ndjson",
    "in/x.csv.zst",
    "a=b/x.jsonl",
    "-x.csv",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_generate_answers_with_the_command_to_type(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(
        "prompt\na\nb\n" if name.endswith((".csv", ".tsv", ".txt", ".zst")) else '{"prompt": "a"}'
    )
    with pytest.raises(InputRefused) as refused:
        open_source(SourceConfig(path=name))
    told = str(refused.value)
    command = told.partition("; prompts are read from Parquet: ")[2].removesuffix(" makes it")
    program, job, *words = shlex.split(command)
    assert (program, job) == ("promptmill", "import")
    assert main([job, *words]) == 0, capsys.readouterr().err
    made = next(tmp_path.rglob("*.parquet"))
    assert open_source(SourceConfig(path=str(made))).files[0].rows >= 1
    made.unlink()


@pytest.mark.parametrize("path", ["in", "in/", "in/*.jsonl", "in/**"])
def test_so_it_does_for_folders_and_globs(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "in" / name).write_text(json.dumps({"prompt": name}))
    (tmp_path / "README.md").touch()
    with pytest.raises(InputRefused) as refused:
        open_source(SourceConfig(path=path))
    command = str(refused.value).partition("; prompts are read from Parquet: ")[2].removesuffix(" makes it")
    if path != "in/**":
        assert main(shlex.split(command)[1:]) == 0
        (made,) = tmp_path.glob("*.parquet")
        assert pq.read_table(made)["prompt"].to_pylist() == ["a.jsonl", "b.jsonl"]


def test_no_torch_and_no_ray(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(LINES)
    code = (
        "import sys; from jobs.cli import main; code = main(sys.argv[1:]);"
        "print('LOADED', [m for m in ('torch', 'transformers', 'ray', 'datasets') if m in sys.modules]); sys.exit(code)"
    )
    words = ["import", str(tmp_path / "x.jsonl"), str(tmp_path / "x.parquet")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "LOADED []"), done.stderr


def process(*words: str, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", "import", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, **options,
    )  # fmt: skip


def test_a_full_storage_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n".join(os.urandom(50).hex() for _ in range(150_000)))

    def few_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    with process(str(tmp_path / "x.txt"), str(tmp_path / "x.parquet"), preexec_fn=few_bytes) as running:
        out, err = running.communicate()
    assert (running.returncode, out) == (75, "")
    assert messages(err) == [f"promptmill: no space left in {tmp_path}: File too large; free some and run again"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "x.txt"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_nothing(signum: int, tmp_path: Path) -> None:
    """Sent when a row group is written, and more of them are to come."""
    line = json.dumps({"prompt": os.urandom(500).hex()}) + "\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jsonl").write_text(line * 60_000)
    code = (
        "import sys, time\n"
        "from pipeline.prompts.imports import parts\n"
        "write = parts.Parts._write_group\n"
        "def slow(self, count):\n"
        "    write(self, count)\n"
        "    print('WRITTEN', flush=True)\n"
        "    for _ in range(9000):\n"  # one long sleep would not notice a signal that comes just before it
        "        time.sleep(0.1)\n"
        "parts.Parts._write_group = slow\n"
        "from jobs.console.leave import leave\n"
        "from jobs.cli import main\n"
        "leave(main(['import', *sys.argv[1:]]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "in" / "x.jsonl"), str(tmp_path / "x.parquet")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        try:
            assert running.stdout is not None and running.stdout.readline() == "WRITTEN\n"
            running.send_signal(signum)
            _, err = running.communicate(timeout=900)
        finally:
            running.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "in"]
    if signum == signal.SIGKILL:
        assert running.returncode == -9
    else:
        assert running.returncode == 128 + signum
        assert err.splitlines()[-1] == f"promptmill: stopped by {signal.Signals(signum).name}"


def test_progress_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    from pipeline.prompts.imports.progress import Progress

    progress = Progress(4_000_000_000)
    progress.done, progress.now, progress.rows = 1_000_000_000, 200_000_000, 123_456
    assert progress.line(12.0) == "importing: 123,456 rows, 1,200 of 4,000 MB read (30%), 100 MB/s"
    assert Progress(0).line(5.0) == "importing: 0 rows, 5 s so far"


def test_progress_is_told_while_it_lasts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from pipeline.prompts.imports import progress as module

    monkeypatch.setattr(module, "BETWEEN", 0.01)
    with caplog.at_level("INFO", module.__name__), module.Progress(0) as progress:
        progress.rows = 7
        for _ in range(6000):
            if caplog.messages:
                break
            time.sleep(0.01)
    assert caplog.messages[-1].startswith("importing: 7 rows, ")


def test_it_is_a_job_like_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--help"]) == 0
    page = capsys.readouterr().out
    assert "promptmill import FILE|FOLDER|GLOB|URI ... OUT.parquet [KEY=VALUE ...]" in page
    assert "on_bad_line                    fail, or skip" in page
    run: Any
    (run,) = compose_runs("import", JOB.schema, parsed(["source.path=a", "output.path=b"]))
    assert run.config is not None
