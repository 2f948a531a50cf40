from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.options.arguments import Arguments
from jobs.options.bundle import Command, bundle, command
from jobs.options.compose import compose_runs
from pipeline.errors import ConfigurationError
from pipeline.inspect.config import VerifyConfig
from pipeline.wording import override
from pipeline.work.config import GenerateConfig


def sent(*overrides: str, job: str = "generate", **arguments: object) -> Command:
    return command(job, "python3", Arguments(overrides, **arguments))  # type: ignore[arg-type]


def words(*overrides: str, **arguments: object) -> list[str]:
    return shlex.split(sent(*overrides, **arguments).line)  # type: ignore[arg-type]


def test_a_job_runs_on_the_cluster_that_it_is_submitted_to() -> None:
    found = words("source.path=/in", "output.path=s3://bucket/out")
    assert found == [
        "exec",
        "python3",
        "-m",
        "jobs.generate",
        "source.path=/in",
        "output.path=s3://bucket/out",
        "cluster=existing",
    ]
    assert words("source.path=/in", "output.path=/out", "cluster=local")[-1] == "cluster=local"
    assert words("output.path=/out", job="verify")[3:] == ["jobs.verify", "output.path=/out"]


def test_relative_paths_are_taken_from_here(empty_folder: Path, tmp_path: Path) -> None:
    found = words("source.path=in.parquet", "output.path=out/${now:%Y}", "model.path=openai-community/gpt2")
    assert f'source.path="{empty_folder}/in.parquet"' in found
    assert f'output.path="{empty_folder}/out/${{now:%Y}}"' in found, "interpolations are resolved over there"
    assert not any(word.startswith("model.path=") and str(empty_folder) in word for word in found), "a hub id"


def test_presets_of_ones_own_go_along(tmp_path: Path) -> None:
    presets = tmp_path / "mine"
    (presets / "sampling").mkdir(parents=True)
    (presets / "sampling" / "calm.yaml").write_text("temperature: 0.1\n")
    options = ("sampling=calm", "source.path=/in", "output.path=/out")
    found = sent(*options, config_dir=str(presets))
    assert shlex.split(found.line)[4:7] == ["--config-dir", "presets", "sampling=calm"]
    with bundle(found) as folder:
        assert (folder / "presets" / "sampling" / "calm.yaml").is_file()


@pytest.mark.parametrize("name", ["in.parquet", 'a "b" c', r"back\slash", "ends in \\", "x=1,y", "[a]", "{a: 1}"])
def test_a_relative_path_of_any_name_is_the_same_there(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:  # fmt: skip
    here = sent(override("source.path", name), "output.path=/out")
    monkeypatch.chdir(tmp_path)
    (there,) = compose_runs("generate", GenerateConfig, Arguments(tuple(shlex.split(here.line)[4:])))
    assert there.config is not None and there.config.source.path == f"{empty_folder}/{name}"


@pytest.mark.parametrize("place", ["out", r"back\slash", 'say "out"', "out/sampling.n=2", "a b"])
def test_a_path_without_its_key_is_taken_from_here_too(empty_folder: Path, place: str) -> None:
    line = words(place, "replay=3", job="verify")
    (there,) = compose_runs("verify", VerifyConfig, Arguments(tuple(line[4:])))
    assert there.config is not None and there.config.output.path == f"{empty_folder}/{place}"
    with pytest.raises(ConfigurationError, match=r"b: not KEY=VALUE; output\.path is given already"):
        words("a", "b", job="verify")
    with pytest.raises(ConfigurationError, match="b: not KEY=VALUE, nor GROUP=PRESET"):
        words("b")


def test_a_home_folder_of_nobody_is_left_to_the_cluster() -> None:
    found = words('source.path="~nobody-of-that-name/in"', "output.path=/out")
    assert found[-1].endswith('/~nobody-of-that-name/in"')


def test_places_of_a_score(empty_folder: Path) -> None:
    found = words("source.path=/in", "output.path=/out", "results=made/lm.json", "explain=true",
                  "explain_sources=[a.parquet,/b.parquet,s3://c/d]", job="score")  # fmt: skip
    assert f'results="{empty_folder}/made/lm.json"' in found
    assert f'explain_sources=["{empty_folder}/a.parquet","/b.parquet","s3://c/d"]' in found


FILES = {
    "source.template_file": ("{{ text }}\r\n${x} é\n\n", "template"),
    "source.chat_template": ("\ufeff\ufeff{% for m in messages %}{{ m.content }}{% endfor %}\n", "chat_template"),
}


@pytest.mark.parametrize("key", FILES)
def test_files_that_options_name_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """What runs over there has the same configuration, and so the same plan."""
    text, name = FILES[key]
    (tmp_path / "my words.txt").write_text(text, encoding="utf-8", newline="")
    monkeypatch.chdir(tmp_path)
    options = (f'{key}="my words.txt"', "source.path=/in", "output.path=/out",
               *(["source.messages_column=m"] if name == "chat_template" else []))  # fmt: skip
    (here,) = compose_runs("generate", GenerateConfig, Arguments((*options, "cluster=existing")))
    found = sent(*options)
    (tmp_path / "my words.txt").write_text(text.replace("}}", " }}"), encoding="utf-8", newline="")
    assert sent(*options).line != found.line, "other content is another command"
    (tmp_path / "my words.txt").unlink()
    with bundle(found) as folder:
        monkeypatch.chdir(folder)
        (there,) = compose_runs("generate", GenerateConfig, Arguments(tuple(shlex.split(found.line)[4:])))
    assert here.config == there.config
    assert getattr(there.config.source, name) == text.removeprefix("\ufeff").removesuffix("\n")  # type: ignore[union-attr]


def test_what_is_sent_runs_by_itself() -> None:
    code = "import conf, jobs.cli, pipeline.work.worker; print(*(m.__file__ for m in (conf, jobs.cli, pipeline.work.worker)))"
    with bundle(Command("")) as folder:
        assert not list(folder.rglob("*.pyc"))
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True,
            env={"PYTHONPATH": str(folder)},
        )  # fmt: skip
        assert done.stdout.count(str(folder)) == 3
    assert not folder.exists()


def test_a_multirun_is_not_one_submission() -> None:
    with pytest.raises(ConfigurationError, match="submit each run by itself"):
        command("generate", "python", Arguments(("source.path=/in", "output.path=/out"), multirun=True))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("submission_id=a/b source.path=/in output.path=/out", "submission_id='a/b': must be up to 100 letters"),
        ("job=report", "job=report: must be one of generate, plan, score, verify"),
        ("job=submit", "must be one of generate, plan, score, verify"),
        ("source.path=/in output.path=/out sampling.topk=3", "did you mean sampling.top_k?"),
        ("output.path=/out", "source.path"),
        ("wait=perhaps source.path=/in output.path=/out", "wait"),
        ("status", "give submission_id="),
        ("stop", "give submission_id="),
        ("status submission_id=a source.path=/in", "takes only submission_id and address"),
        ("--wait-not source.path=/in", "--config-dir, --no-wait; an option is KEY=VALUE"),
        ("--no-wat source.path=/in", "--no-wat: no such flag; did you mean '--no-wait'? "),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
