from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.parts.table import TARGETS, main
from benchmarks.run import measure, options

ROOT = Path(__file__).parents[2]


def python(code: str, timeout: float = 900) -> dict[str, object]:
    return measure((sys.executable, "-c", code), timeout)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


def test_the_last_json_line_counts() -> None:
    assert python('print("log"); print(\'{"tok_s": 1}\'); print(\'{"tok_s": 2}\'); print("bye")') == {
        "figures": {"tok_s": 2}
    }


def test_a_failure_is_told_by_its_last_message() -> None:
    outcome = python('import sys; print("first", file=sys.stderr); sys.exit("no compiler\\n")')
    assert outcome["error"] == "exit code 1: no compiler"
    assert outcome["messages"] == ["first", "no compiler"]


def test_a_run_without_a_result_is_a_failure() -> None:
    assert python("pass")["error"] == "exit code 0: no message"


def test_a_killed_run_names_the_signal() -> None:
    assert python("import os; os.kill(os.getpid(), 9)")["error"] == "signal 9: no message"


def test_a_run_that_hangs_is_ended() -> None:
    assert python("import time; time.sleep(3600)", timeout=0.5)["error"] == "took longer than 0.5 seconds"


def test_an_environments_own_tools_come_first() -> None:
    figures = python("import json, os; print(json.dumps({'path': os.environ['PATH'].split(os.pathsep)[0]}))")["figures"]
    assert figures == {"path": str(Path(sys.executable).parent)}


def test_what_is_asked_for_must_make_sense(tmp_path: Path) -> None:
    assert "--rounds=0: must be at least 1" in run("--rounds", "0").stderr
    assert "has no config.json" in run("--model", str(tmp_path)).stderr


def test_the_default_is_what_has_targets() -> None:
    chosen = options().parse_args([])
    assert {name for name, _ in TARGETS} <= set(chosen.measure)
    assert chosen.size == "gpt2-large"


@pytest.mark.slow
def test_a_tiny_model_from_the_command_to_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.json"
    done = run(
        "--size", "tiny", "--measure", "uniform", "--only", "promptmill", "transformers", "--precision", "float32",
        "--requests", "3", "--max-num-seqs", "2", "--rounds", "1", "--json", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    figures = {entry["engine"]: entry["figures"] for entry in results["runs"]}
    assert {engine: values["tokens"] for engine, values in figures.items()} == {"promptmill": 192, "transformers": 192}
    assert figures["promptmill"]["prompt_tokens"] == 96
    assert set(figures["transformers"]["versions"]) == {"transformers", "torch"}
    assert results["machine"]["cores"] >= 1
    rows = [line for line in done.stdout.splitlines() if line.startswith("| uniform |")]
    assert [row.split(" | ")[1] for row in rows] == ["promptmill float32", "transformers `generate`, batch 2"]
    monkeypatch.setattr(sys, "argv", ["table", str(file)])
    main()
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("| uniform |")] == rows


@pytest.mark.slow
def test_the_profile_of_a_tiny_model() -> None:
    done = run(
        "--size", "tiny", "--measure", "uniform", "--only", "promptmill", "--precision", "int8", "--requests", "2",
        "--max-num-seqs", "2", "--profile",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kinds = [line.split(" | ")[0] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert kinds == ["| step", "| reads prompts", "| decodes 2 to 3"] * 3  # with each type of cache
