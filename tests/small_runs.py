"""Small runs of the demo model: their inputs, the command in this process or its own, and their outputs as bytes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.generate import main
from pipeline.engine.config import ModelConfig
from pipeline.output.config import OutputConfig
from pipeline.prompts.config import SourceConfig
from pipeline.work.config import GenerateConfig

REPOSITORY = Path(__file__).parents[1]
MODEL = REPOSITORY / "examples" / "demo-model"
INLINE = ("cluster=inline", "cluster.cpus_per_replica=1")
RAY = ("cluster=local", "cluster.cpus_per_replica=1")
PATIENCE = 900.0
"""Seconds after which something that must happen is taken not to, on the busiest machine: no test ends by it that passes."""
STAGED = Path(__file__).parent / "end_to_end" / "staged_runs"

OPENINGS = (
    "Weather report for Larkfield, Monday: the morning",
    "Once there was an old bear called Tom. He had",
    "A simple recipe for carrot",
    "Dear Anna, greetings from",
    "The train to",
    "Lost",
    "Ünïcødé — 雨 🌧",
    "Once there was an old bear called Tom. He had his home in a cave and loved honey. " * 4,
)
"""Of very different lengths; the first and the last but one share their first tokens with others."""

MIXED: tuple[dict[str, Any] | None, ...] = (
    None,
    {"temperature": 0.0},
    {"top_k": 5, "temperature": 1.5},
    {"stop": ["the", "."], "top_p": 0.9},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"max_tokens": 3, "seed": 7},
    {"min_p": 0.05, "min_tokens": 4},
)
MIXED_TYPE = pa.struct(
    [
        *((name, pa.int64()) for name in ("top_k", "max_tokens", "min_tokens", "seed")),
        *((name, pa.float64()) for name in ("temperature", "top_p", "min_p")),
        *((f"{name}_penalty", pa.float64()) for name in ("repetition", "presence", "frequency")),
        ("stop", pa.list_(pa.string())),
    ]
)


def messages(err: str) -> list[str]:
    """The lines of standard error that are no log."""
    return [line for line in err.splitlines() if " INFO " not in line]


def prompts(rows: int) -> pa.Table:
    """Texts of many lengths, some null or empty, and every kind of sampling parameter."""
    texts: list[str | None] = [f"{OPENINGS[i % len(OPENINGS)]}{' and' * (i % 3)}" for i in range(rows)]
    for place, text in ((3, None), (11, "")):
        if place < rows:
            texts[place] = text
    return pa.table(
        {
            "id": [f"row-{i:04d}" for i in range(rows)],
            "prompt": pa.array(texts, pa.string()),
            "topic": [f"topic {i % 4}" for i in range(rows)],
            "how": pa.array([MIXED[i % len(MIXED)] for i in range(rows)], MIXED_TYPE),
        }
    )


def write(table: pa.Table | dict[str, Any], path: Path, **options: Any) -> Path:
    """Write an input file, its folder included; `options` are those of pyarrow's `write_table`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return path


def configured(source: Path | str, output: Path | str, /, **sections: Any) -> GenerateConfig:
    """The configuration of a small run; `model`, `source` and `output` are mappings of what is added to them."""
    added = {name: sections.pop(name, {}) for name in ("model", "source", "output")}
    return GenerateConfig(
        model=ModelConfig(**{"path": str(MODEL), **added["model"]}),
        source=SourceConfig(**{"path": str(source), **added["source"]}),
        output=OutputConfig(**{"path": str(output), **added["output"]}),
        **sections,
    )


def overrides(source: Path | str, output: Path | str, *more: str) -> list[str]:
    """The command line of a small run, after the job's name."""
    return [
        f"model.path={MODEL}",
        f"source.path={source}",
        f"output.path={output}",
        "sampling.max_tokens=8",
        "output.report=false",
        *more,
    ]


def copy_of_the_code(folder: Path, *more: str) -> Path:
    """Copy what a command needs, without compiled kernels, so that a test may add to it; return the folder."""
    for room in ("jobs", "conf", "pipeline", *more):
        shutil.copytree(REPOSITORY / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return folder


def promptmill(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command of a copy of the code, in its folder."""
    environment = {**os.environ, "PYTHONPATH": str(project), "COLUMNS": "100"}
    command = [sys.executable, "-m", "jobs", *words]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def generate(source: Path | str, output: Path | str, *more: str) -> int:
    """Run in this process, and return the exit code."""
    return main(overrides(source, output, *(more if any(m.startswith("cluster=") for m in more) else (*INLINE, *more))))


def read(output: Path) -> pa.Table:
    """All rows in the order of (row_id, sample_index)."""
    parts = [pq.read_table(path) for path in sorted((output / "data").glob("*.parquet"))]
    return pa.concat_tables(parts).sort_by([("row_id", "ascending"), ("sample_index", "ascending")])


def as_bytes(table: pa.Table) -> bytes:
    """The rows as one Arrow record batch: equal rows, to the last bit of every float, give equal bytes."""
    plain = table.replace_schema_metadata(None)
    at = plain.schema.get_field_index("finish_reason")
    if at >= 0:  # scores have none
        plain = plain.set_column(at, "finish_reason", plain.column("finish_reason").cast(pa.string()))
    # Taken row by row, so that nothing of where the parts began is left in the buffers.
    columns: list[Any] = [pa.concat_arrays([c.combine_chunks()]) if c.num_chunks else c for c in plain.columns]
    plain = pa.Table.from_arrays(columns, schema=plain.schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_table(plain.combine_chunks())
    return sink.getvalue().to_pybytes()


def assert_same_rows(one: Path, other: Path) -> None:
    """Assert that two outputs hold the same rows, bit for bit; name the first column that differs."""
    a, b = read(one), read(other)
    assert a.schema.equals(b.schema)
    differing = [
        n for n in a.column_names if n != "token_logprobs" and a.column(n).to_pylist() != b.column(n).to_pylist()
    ]
    assert as_bytes(a) == as_bytes(b), f"different bits; columns that are seen to differ: {differing}"


def manifest(output: Path) -> dict[str, Any]:
    """The manifest."""
    body: dict[str, Any] = json.loads((output / "_job" / "manifest.json").read_text())
    return body


def parts(output: Path) -> dict[str, tuple[int, int, bytes]]:
    """Committed parts: name → (inode, time of the last change, content)."""
    found = {p: p.stat() for p in (output / "data").glob("*.parquet")}
    return {p.name: (s.st_ino, s.st_mtime_ns, p.read_bytes()) for p, s in found.items()}


def events(output: Path, kind: str) -> list[dict[str, Any]]:
    """The events of a kind, of all drivers in the order of their starts."""
    folder = output / "_job" / "events"
    files = sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns) if folder.is_dir() else []
    # A run that is at work may have written the beginning of a line.
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines(True) if line.endswith("\n")]
    return [line for line in lines if line["event"] == kind]


def no_half_files(output: Path) -> bool:
    """Whether everything under a final name can be read to its end."""
    return all(pq.read_table(path).num_rows >= 0 for path in (output / "data").glob("*.parquet"))


@dataclass
class Stage:
    """A folder by which a test and the processes of its runs know of each other; `staged_runs` says how.

    Attributes:
        folder: Where; it is made.
        parts: How many parts a process commits before it waits at the gate; None: it does not wait.
    """

    folder: Path
    parts: int | None = 1

    def __post_init__(self) -> None:
        self.folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be started with."""
        gate = {} if self.parts is None else {"PROMPTMILL_TEST_PARTS": str(self.parts)}
        path = f"{STAGED}{os.pathsep}{REPOSITORY}"
        return {"PYTHONPATH": path, "PROMPTMILL_TEST_STAGE": str(self.folder), **gate}

    def came(self) -> list[int]:
        """The processes that came to the gate, the first one first, whatever became of them."""
        files = sorted(self.folder.glob("at-gate-*"), key=lambda file: file.stat().st_mtime_ns)
        return [int(file.name.rpartition("-")[2]) for file in files]

    def open(self) -> None:
        """Let through whoever waits, or will come."""
        (self.folder / "open").touch()


@dataclass
class Started:
    """A run in a process group of its own; whatever descends from it carries its mark in its environment."""

    process: subprocess.Popen[str]
    mark: str
    output: Path

    def wait_at(self, stage: Stage, processes: int = 1) -> list[int]:
        """Wait until as many processes have come to the gate, and return them in that order."""
        self.wait_for(lambda: len(stage.came()) >= processes)
        return stage.came()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so while this runs."""
        came = wait_until(lambda: self.process.poll() is not None or condition())
        assert self.process.poll() is None, f"ended too early: {self.finish()}"
        assert came, "it does not come"

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was printed."""
        text, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, text

    def family(self, name: str = "") -> list[int]:
        """Process ids of whatever was started by this run and lives, those whose command line has `name` in it."""
        return [pid for pid in _processes() if self._is_mine(pid) and name in _read(pid, "cmdline")]

    def left_behind(self, *names: str) -> list[str]:
        """Wait until nothing of these names (or nothing at all) is alive; return the command lines of what does not end."""

        def alive() -> list[int]:
            return [pid for name in names or ("",) for pid in self.family(name)]

        wait_until(lambda: not alive())
        return [_read(pid, "cmdline") for pid in alive()]

    def _is_mine(self, pid: int) -> bool:
        return self.mark in _read(pid, "environ") and _read(pid, "stat").rpartition(")")[2].split()[:1] != ["Z"]


@contextlib.contextmanager
def started(command: Sequence[str], output: Path, **environment: str) -> Iterator[Started]:
    """Start `python COMMAND` in its own session; at the end kill what is left of it."""
    mark = f"promptmill-test-{uuid.uuid4().hex}"
    process = subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY, text=True, encoding="utf-8", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PROMPTMILL_TEST": mark, **environment},
    )  # fmt: skip
    run = Started(process, mark, output)
    try:
        yield run
    finally:
        for pid in run.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def started_generate(
    source: Path, output: Path, *more: str, stage: Stage | None = None
) -> contextlib.AbstractContextManager[Started]:
    """Start `python -m jobs.generate` in its own session."""
    environment = {} if stage is None else stage.environment
    return started(["-m", "jobs.generate", *overrides(source, output, *more)], output, **environment)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a Python of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, text=True, capture_output=True, timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Wait until something is so; false when it does not come."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _processes() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
