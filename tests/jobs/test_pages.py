from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.help.page import default_presets, presets
from jobs.options.keys import keys, sections
from jobs.spec import JobSpec, specs
from pipeline import __version__
from pipeline.work.config import GenerateConfig

ROOT = Path(__file__).parents[2]


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_the_page_of_jobs(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, *argv)
    assert all(job in page for job in specs())
    assert max(map(len, page.splitlines())) <= 100


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--version") == f"promptmill {__version__}\n"


@pytest.mark.parametrize(
    ("job", "hint"),
    [
        ("genrate", "did you mean 'generate'?"),
        ("zzz", "no such job; there are diff, "),
        ("n=1", "the job comes first"),
    ],
)
def test_unknown_job(job: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([job]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"promptmill: {job}: ")
    assert hint in line


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["model=nonsense", "--help"]])
def test_the_page_of_generate(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "generate", *argv)
    assert max(map(len, page.splitlines())) <= 100
    for key in keys(GenerateConfig):
        assert f"\n  {key} " in page
    for group in default_presets("generate"):
        assert all(f" {name} " in page for name in presets(group))
    assert "* gpt2-large" in page
    assert "sampling.max_tokens            most tokens to generate [64]" in page
    assert "a URI (required)" in page
    for code in ("\n  0 ", "\n  2 ", "\n  75 ", "\n  130 "):
        assert code in page


def test_the_page_of_verify(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "verify", "--help")
    assert max(map(len, page.splitlines())) <= 100
    assert "output.path                    the folder of the output (required)" in page
    assert "bit [0]" in page and "Presets" not in page
    codes = page.partition("Exit codes\n")[2].splitlines()
    assert [line.split()[0] for line in codes] == ["0", "1", "2", "4", "75", "130", "143"]


def test_a_default_without_characters_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert ' such as a blank [""]' in " ".join(printed(capsys, "score", "--help").split())


def test_every_key_and_section_has_a_meaning() -> None:
    for schema in (spec.schema for spec in specs().values()):
        for name, meaning in {**sections(schema), **{key.name: key.help for key in keys(schema).values()}}.items():
            assert meaning and "\n" not in meaning and len(meaning) < 130, name
    assert {*sections(GenerateConfig), "experiment"} == set(default_presets("generate"))


def test_every_job_is_its_modules() -> None:
    assert list(specs()) == [
        "diff", "doctor", "generate", "import", "plan", "report", "score", "show", "submit", "verify",
    ]  # fmt: skip
    for name, spec in specs().items():
        module = "import_prompts" if name == "import" else name  # which is no name for a module
        assert importlib.import_module(f"jobs.{module}").JOB is spec
        assert isinstance(spec, JobSpec) and spec.name == name


def test_the_examples_compose(capsys: pytest.CaptureFixture[str], examples: Path) -> None:
    import shlex

    from jobs.generate import JOB

    for _, command in JOB.examples:
        promptmill, *argv = shlex.split(command)
        assert promptmill == "promptmill"
        assert printed(capsys, *argv, "--cfg", "job").startswith("model:\n")


def test_cfg_prints_the_composed_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "generate", "sampling=greedy", "--cfg", "job")
    assert "  temperature: 0.0\n" in page
    assert "  path: ???\n" in page
    assert "hydra" not in page
    resolved = printed(capsys, "generate", "experiment=nightly", "-c", "job", "--resolve")
    assert "path: outputs/2" in resolved
    several = printed(capsys, "generate", "-m", "sampling.n=1,2", "--cfg", "job")
    assert several.count("---\n") == 1


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["generate", "--help"], 0),
        (["generate", "--cfg", "job"], 0),
        (["generate", "sampling.n=x"], 2),
    ],
)
def test_nothing_heavy_is_imported(argv: list[str], code: int) -> None:
    script = (
        "import sys; from jobs.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'ray', 'torch', 'pyarrow', 'transformers', 'numpy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *argv],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("module", ["jobs", "jobs.cli"])
def test_as_modules(module: str) -> None:
    command = [sys.executable, "-m", module, "generate", "sampling.n=x"]
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (2, "promptmill: sampling.n=x: must be a whole number\n")


def test_the_console_script_is_the_one_that_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"promptmill": "jobs.cli:run"}


def test_a_reader_that_closes_the_pipe_early_is_no_error() -> None:
    command = f"{sys.executable} -m jobs generate --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
