from __future__ import annotations

import datetime
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.options.restore import restored
from pipeline.errors import Interrupted, PlanRefused, StorageFull
from pipeline.work.config import GenerateConfig
from tests.small_runs import messages

PATHS = ["source.path=in.parquet", "output.path=out"]


def generate(*overrides: str) -> int:
    return main(["generate", *overrides])


def test_hands_the_driver_a_typed_configuration(driver: Any) -> None:
    assert generate(*PATHS, "model=gpt2", "sampling.max_tokens=7") == 0
    assert type(driver.config) is GenerateConfig
    assert driver.config.model.path == "openai-community/gpt2"
    assert driver.config.sampling.max_tokens == 7
    assert driver.config.source.prompt_column == "prompt"


def test_returns_the_drivers_exit_code(driver: Any) -> None:
    driver.answer = lambda config: 3
    assert generate(*PATHS) == 3


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("cluster.replicas=2", "cluster", "replicas", "2"),
        ("cluster.replicas=auto", "cluster", "replicas", "auto"),
        ("sampling.stop=[foo,bar]", "sampling", "stop", ["foo", "bar"]),
        (r'sampling.stop=["\n\n"]', "sampling", "stop", ["\n\n"]),
        (r'sampling.stop=["\n\n",END]', "sampling", "stop", ["\n\n", "END"]),
        ('sampling.stop=["\n"]', "sampling", "stop", ["\n"]),
        ("sampling.stop=[]", "sampling", "stop", []),
        (r'sampling.choice=["a\nb",c]', "sampling", "choice", ["a\nb", "c"]),
        (r'sampling.bad_words=["\n"]', "sampling", "bad_words", ["\n"]),
        (r'sampling.regex="[0-9]{2}\n\d"', "sampling", "regex", r"[0-9]{2}\n\d"),
        ("sampling.regex=12", "sampling", "regex", "12"),
        ("sampling.logit_bias={50256:-5,7:1.5}", "sampling", "logit_bias", {7: 1.5, 50256: -5.0}),
        ("sampling.json_schema={type:object}", "sampling", "json_schema", '{"type":"object"}'),
        (r'sampling.json_schema="{\"type\": \"null\"}"', "sampling", "json_schema", '{"type":"null"}'),
        ('sampling.json_schema={"type": "object", "x-a": "say \\"hi\\" {b}, ${c}"}', "sampling", "json_schema",
         '{"type":"object","x-a":"say \\"hi\\" {b}, ${c}"}'),
        ('sampling.logit_bias={"50256": -5}', "sampling", "logit_bias", {50256: -5.0}),
        ('source.template="costs ${{ price }}"', "source", "template", "costs ${{ price }}"),
        ('sampling.regex="[0-9]+${2}"', "sampling", "regex", "[0-9]+${2}"),
        ('sampling.stop=["${"]', "sampling", "stop", ["${"]),
        ("sampling.stop_token_ids=[1,2]", "sampling", "stop_token_ids", [1, 2]),
        ("sampling.temperature=0", "sampling", "temperature", 0.0),
        ("sampling.temperature=1e-1", "sampling", "temperature", 0.1),
        ("model.path=/some/dir with spaces", "model", "path", "/some/dir with spaces"),
        ("model.revision=0012", "model", "revision", "0012"),
        ("model.revision=1e5", "model", "revision", "1e5"),
        ("model.revision=null", "model", "revision", None),
        ('source.template="Write about {{ topic }}."', "source", "template", "Write about {{ topic }}."),
        (r'source.template="Q: {{ q }}\nA:"', "source", "template", "Q: {{ q }}\nA:"),
        (r'source.template="say \"{{ word }}\", it\'s"', "source", "template", r'say "{{ word }}", it\'s'),
        ('source.template="{% if a %}{{ a }}, b{% endif %}"', "source", "template", "{% if a %}{{ a }}, b{% endif %}"),
        ("source.path=s3://bucket/a/*.parquet", "source", "path", "s3://bucket/a/*.parquet"),
        ("stats.columns=[]", "stats", "columns", []),
    ],
)  # fmt: skip
def test_values_as_written_in_a_shell(driver: Any, override: str, section: str, name: str, value: object) -> None:
    assert generate(*PATHS, override) == 0
    chosen = getattr(driver.config, section)
    assert (chosen.params().plain() if section == "sampling" else vars(chosen))[name] == value


def test_replicas_as_a_number_in_yaml(driver: Any, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "two.yaml").write_text(
        '# @package _global_\ncluster:\n  replicas: 2\ndeadline: "18:30"\n'
    )
    assert generate("-cd", str(tmp_path / "mine"), "experiment=two", *PATHS) == 0
    assert driver.config.cluster.replicas == "2"
    assert driver.config.deadline == "18:30"


@pytest.mark.parametrize("text", ["a {{ b }}", "costs ${{ x }} or ${y}", "\\${z}", "a\r\nb\n", "ünï", "", "  x\n\n"])
def test_a_template_from_a_file_is_kept_with_the_output(driver: Any, tmp_path: Path, text: str) -> None:
    file = tmp_path / "template.txt"
    file.write_bytes(f"{text}\n".encode())
    assert generate(*PATHS, f"source.template_file={file}") == 0
    config, yaml = driver.calls[0]
    assert (config.source.template, config.source.template_file) == (text, None)
    assert restored(yaml, GenerateConfig, "out").source.template == text, "without the file, too"


@pytest.mark.parametrize("path", ["out", "a ${b} c", r"back\slash", r"\${x}"])
def test_an_output_is_read_wherever_it_lies_now(driver: Any, path: str) -> None:
    assert generate(*PATHS) == 0
    assert restored(driver.calls[0][1], GenerateConfig, path).output.path == path


def test_a_schema_from_a_file(driver: Any, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object", "properties": {"a": {"pattern": "^${x}"}}}\n')
    assert generate(*PATHS, f"sampling.json_schema_file={file}") == 0
    assert driver.config.sampling.params().json_schema == '{"type":"object","properties":{"a":{"pattern":"^${x}"}}}'


def test_the_nightly_job_keeps_its_prompts(driver: Any) -> None:
    assert generate("experiment=nightly", *PATHS) == 0
    assert driver.config.output.include_prompt


@pytest.mark.parametrize(
    ("deadline", "moment"),
    [
        ("+8h", "2026-11-23 03:30"), ("+1h30m", "2026-11-22 21:00"), ("+45min", "2026-11-22 20:15"),
        ("06:00", "2026-11-23 06:00"), ("19:30", "2026-11-23 19:30"), ("23:59", "2026-11-22 23:59"),
    ],
)  # fmt: skip
def test_deadlines(driver: Any, deadline: str, moment: str) -> None:
    assert generate(*PATHS, f"deadline={deadline}") == 0
    started = datetime.datetime(2026, 11, 22, 19, 30)
    assert driver.config.deadline_after(started) == datetime.datetime.fromisoformat(moment)


def test_a_group_of_the_users_own(driver: Any, tmp_path: Path) -> None:
    (tmp_path / "mine" / "house").mkdir(parents=True)
    (tmp_path / "mine" / "house" / "small.yaml").write_text("# @package _global_\nsampling:\n  max_tokens: 5\n")
    assert generate("--config-dir", str(tmp_path / "mine"), "+house=small", *PATHS) == 0
    assert driver.config.sampling.max_tokens == 5


def test_the_yaml_holds_no_secret(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    assert generate(*PATHS, "model.path=${oc.env:MY_SECRET}", "output.path=outputs/${now:%Y}") == 0
    config, yaml = driver.calls[0]
    assert config.model.path == "hunter2"
    assert config.output.path.startswith("outputs/2")
    assert "hunter2" not in yaml
    assert "path: ${oc.env:MY_SECRET}" in yaml
    assert "path: outputs/${now:%Y}" in yaml
    assert "hydra" not in yaml


def test_the_demo_is_found_from_everywhere(driver: Any, examples: Path) -> None:
    assert generate("experiment=demo") == 0
    config, yaml = driver.calls[0]
    assert config.model.path == str(examples / "demo-model")
    assert config.source.path == str(examples / "prompts.parquet")
    assert str(examples) not in yaml


def test_without_examples_the_demo_says_where_they_come_from(
    driver: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jobs.options.schema.EXAMPLES", tmp_path / "nowhere")
    assert generate("experiment=demo") == 2
    assert "comes with a checkout of promptmill" in capsys.readouterr().err


class TestMultirun:
    def test_a_folder_a_run_named_by_the_swept_keys_only(self, driver: Any) -> None:
        assert generate("-m", "sampling.temperature=0.7,1.0", "sampling.n=2", *PATHS) == 0
        assert [c.output.path for c, _ in driver.calls] == [
            "out/sampling.temperature=0.7",
            "out/sampling.temperature=1.0",
        ]
        assert [c.sampling.temperature for c, _ in driver.calls] == [0.7, 1.0]
        assert {c.sampling.n for c, _ in driver.calls} == {2}
        assert "path: out/sampling.temperature=0.7" in driver.calls[0][1]

    def test_several_keys_and_presets(self, driver: Any) -> None:
        assert generate(*PATHS, "model=gpt2,gpt2-xl", "--multirun", "sampling.seed=range(0,2)") == 0
        assert [c.output.path for c, _ in driver.calls] == [
            f"out/model={model},sampling.seed={seed}" for model in ("gpt2", "gpt2-xl") for seed in (0, 1)
        ]

    def test_one_run_uses_the_folder_itself(self, driver: Any) -> None:
        assert generate("-m", *PATHS) == 0
        assert driver.config.output.path == "out"

    def test_swept_output_paths_are_taken_as_they_are(self, driver: Any) -> None:
        assert generate("-m", "source.path=in.parquet", "output.path=a,b") == 0
        assert [c.output.path for c, _ in driver.calls] == ["a", "b"]

    def test_folder_names_are_safe_and_differ(self, driver: Any) -> None:
        assert generate("-m", "model.path='../a b','../a/b'", *PATHS) == 0
        names = [c.output.path.removeprefix("out/") for c, _ in driver.calls]
        assert len(set(names)) == 2
        assert all("/" not in name and " " not in name for name in names), names
        assert [c.model.path for c, _ in driver.calls] == ["../a b", "../a/b"]

    def test_an_interpolated_path_stays_one(self, driver: Any) -> None:
        assert generate("-m", "sampling.n=1,2", "source.path=in", "output.path=outputs/${now:%Y}") == 0
        assert "path: outputs/${now:%Y}/sampling.n=2" in driver.calls[1][1]

    def test_hydras_own_interpolations(self, driver: Any) -> None:
        assert generate("-m", "sampling.n=1,2", "source.path=in", "output.path=x${hydra:job.num}") == 0
        assert [c.output.path for c, _ in driver.calls] == ["x0/sampling.n=1", "x1/sampling.n=2"]

    def test_a_failed_run_hides_no_other(self, driver: Any, capsys: pytest.CaptureFixture[str]) -> None:
        def answer(config: GenerateConfig) -> int:
            if config.sampling.n == 2:
                raise StorageFull("no space left")
            return 3 if config.sampling.n == 3 else 0

        driver.answer = answer
        assert generate("-m", "sampling.n=1,2,3,4", *PATHS) == 75
        assert len(driver.calls) == 4
        err = capsys.readouterr().err
        assert "promptmill: no space left" in err
        assert "2 of 4 runs complete" in err
        assert "exit code 75: sampling.n=2" in err
        assert "exit code 3: sampling.n=3" in err

    def test_a_signal_ends_them_all(self, driver: Any, capsys: pytest.CaptureFixture[str]) -> None:
        def answer(config: GenerateConfig) -> int:
            raise Interrupted("terminated", 15)

        driver.answer = answer
        assert generate("-m", "sampling.n=1,2,3", *PATHS) == 143
        assert len(driver.calls) == 1
        assert "2 runs not started" in capsys.readouterr().err

    def test_a_mistake_in_any_run_stops_all_before_the_first(self, driver: Any) -> None:
        assert generate("-m", "sampling.n=1,2,0", *PATHS) == 2
        assert driver.calls == []


def test_errors_of_ours_are_one_line(driver: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(config: GenerateConfig) -> int:
        raise PlanRefused("out holds another plan")

    driver.answer = answer
    assert generate(*PATHS) == 2
    assert messages(capsys.readouterr().err) == ["promptmill: out holds another plan"]


def test_full_traces_when_asked_for(
    driver: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert generate("sampling.n=x") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("promptmill: sampling.n=x: must be a whole number\n")


def test_unexpected_errors_leave_a_traceback_in_the_log(driver: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(config: GenerateConfig) -> int:
        raise RuntimeError("a bug")

    driver.answer = answer
    assert generate(*PATHS) == 1
    err = capsys.readouterr().err
    assert "ERROR unexpected error" in err
    assert "RuntimeError: a bug" in err


def test_a_keyboard_interrupt_is_no_bug(driver: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(config: GenerateConfig) -> int:
        raise KeyboardInterrupt

    driver.answer = answer
    assert generate(*PATHS) == 130
    assert messages(capsys.readouterr().err)[0].startswith("promptmill: interrupted")


def test_logging_is_one_line_with_time_and_level(driver: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(config: GenerateConfig) -> int:
        logging.getLogger("pipeline.x").info("hello")
        logging.getLogger("pipeline.x").debug("details")
        logging.getLogger("someone.else").info("chatter")
        return 0

    driver.answer = answer
    assert generate(*PATHS) == 0
    first, line = capsys.readouterr().err.splitlines()
    assert first[8:].startswith(" INFO promptmill ") and line[8:] == " INFO hello"
    assert generate(*PATHS, "hydra.verbose=true") == 0
    assert "DEBUG details" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    ["{enable_thinking:false,words:[a,b]}", '{"enable_thinking": false, "words": ["a", "b"]}',
     '{"enable_thinking":false,"words":["a","b"]}'],
)  # fmt: skip
def test_arguments_of_a_chat_template_as_hydra_or_json_has_them(driver: Any, value: str) -> None:
    assert generate(*PATHS, "source.chat=true", f"source.chat_template_kwargs={value}") == 0
    assert driver.config.source.chat_template_kwargs == {"enable_thinking": False, "words": ["a", "b"]}


def test_texts_in_arguments_of_a_chat_template(driver: Any) -> None:
    value = {"a": 'say "hi" {b}, ${c}\n', "d": {"e": [1, None, 2.5]}}
    assert generate(*PATHS, "source.chat=true", f"source.chat_template_kwargs={json.dumps(value)}") == 0
    assert driver.config.source.chat_template_kwargs == value


def test_a_chat_template_is_a_text_or_a_file(driver: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}${{ m.content }}{% endfor %}\n")
    assert generate(*PATHS, "source.chat=true", f"source.chat_template={tmp_path / 'mine.jinja'}") == 0
    assert driver.config.source.chat_template == "{% for m in messages %}${{ m.content }}{% endfor %}"
