"""Every mistake in the configuration: one line that names the key, the value and what is allowed; exit code 2."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.generate import JOB
from jobs.options.keys import keys
from jobs.options.schema import register
from pipeline.work.config import GenerateConfig

PATHS = ["source.path=in.parquet", "output.path=out"]
KEYS = keys(GenerateConfig)

# Key → a value that its type admits and its range does not.
OUT_OF_RANGE = {
    "model.path": '""',
    "model.dtype": "float8",
    "model.quantization": "int3",
    "model.kv_cache_dtype": "float8",
    "engine.name": "magic",
    "engine.kernels": "native-v5",
    "engine.gpu_kernels": "none",
    "engine.max_num_seqs": "0",
    "engine.max_model_len": "1",
    "engine.max_num_batched_tokens": "1",
    "sampling.n": "0",
    "sampling.temperature": "-1",
    "sampling.top_k": "-1",
    "sampling.top_p": "0",
    "sampling.min_p": "2",
    "sampling.repetition_penalty": "0",
    "sampling.presence_penalty": "3",
    "sampling.frequency_penalty": "nan",
    "sampling.logit_bias": "{5: 101}",
    "sampling.bad_words": '[""]',
    "sampling.regex": '""',
    "sampling.choice": "[true]",
    "sampling.json_schema": '"[]"',
    "sampling.max_tokens": "0",
    "sampling.min_tokens": "65",
    "sampling.stop": '[""]',
    "sampling.stop_token_ids": "[-1]",
    "sampling.seed": "-1",
    "stats.columns": "[logprob,perplexity]",
    "stats.top_logprobs": "-1",
    "source.path": '""',
    "source.limit": "-1",
    "source.keep_columns": "[a,a]",
    "source.on_long_prompt": "skip",
    "source.on_empty_prompt": "skip",
    "source.min_completion_tokens": "0",
    "source.on_corrupt": "ignore",
    "source.chat_template_kwargs": "{enable_thinking: false}",
    "source.continue_final_message": "true",
    "source.chat_date": "yesterday",
    "output.messages": "true",
    "output.path": '""',
    "output.rows_per_shard": "0",
    "output.compression": "zip",
    "output.compression_level": "99",
    "cluster.name": "moon",
    "cluster.address": "ray://x:1",
    "cluster.replicas": "some",
    "cluster.min_replicas": "0",
    "cluster.cpus_per_replica": "0",
    "cluster.memory_per_replica": "six",
    "cluster.gpus_per_replica": "-1",
    "cluster.start_timeout": "0",
    "cluster.hang_timeout": "0",
    "max_error_rate": "1.5",
    "preview": "0",
    "preview_random": "true",
    "deadline": "tomorrow",
}
WRONG_TYPE = {
    "a whole number": "many",
    "a number": "hot",
    "true or false": "maybe",
    "text": "[a]",
    "a list of texts, such as [a,b]": "{a: 1}",
    "a list of whole numbers, such as [1,2]": "[a]",
    "a mapping of token ids to numbers, such as {50256:-5}": "{5:few}",
    "a mapping of names to values, such as {enable_thinking:false}": "few",
    "a mapping, or the JSON text of one": "[1]",
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["generate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("promptmill: ")
    return line.removeprefix("promptmill: ")


@pytest.fixture(autouse=True)
def nothing_starts(driver: Any) -> Any:
    yield
    assert driver.calls == []


@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_out_of_range(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *PATHS, f"{key}={OUT_OF_RANGE[key]}")
    assert re.match(re.escape(key) + "=.*: must be (?!text$).+", line), line


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_wrong_type(key: Any, capsys: pytest.CaptureFixture[str]) -> None:
    value = WRONG_TYPE[key.allowed.removeprefix("null or ")]
    assert refused(capsys, *PATHS, f"{key.name}={value}") == f"{key.name}={value}: must be {key.allowed}"


def test_every_key_that_has_a_range_is_tried() -> None:
    free = {k for k in KEYS if k.endswith("_column")} | {"model.revision", "model.tokenizer", "model.adapter"}
    free |= {"source.template_file", "sampling.json_schema_file"}
    free |= {
        "sampling.ignore_eos",
        "stats.prompt_logprobs",
        "output.include_prompt",
        "source.template",
        "source.add_special_tokens",
    }
    free |= {
        "engine.prefix_caching",
        "engine.deterministic",
        "model.tf32",
        "output.allow_unsafe_store",
        "output.report",
        "cluster.ship_code",
    }
    free |= {"source.chat", "source.system_prompt", "source.id_template", "source.chat_template"}
    assert set(OUT_OF_RANGE) | free == set(KEYS)


def test_a_chat_template_that_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *PATHS, "source.chat=true", "source.chat_template=mine.jinja")
    assert line == "source.chat_template=mine.jinja: no such file or directory"


@pytest.mark.parametrize("section", ["model", "engine", "sampling", "stats", "source", "output", "cluster"])
def test_unknown_key_of_a_section(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, f"{section}.zzzzzz=1")
    names = [k.removeprefix(f"{section}.") for k in KEYS if k.startswith(f"{section}.")]
    assert line == f"{section}.zzzzzz: no such key; {section} has {', '.join(names)}"


@pytest.mark.parametrize("group", ["model", "engine", "sampling", "stats", "source", "output", "cluster", "experiment"])
def test_unknown_preset(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    presets = sorted(p.stem for p in (Path(__file__).parents[2] / "conf" / group).glob("*.yaml"))
    assert refused(capsys, f"{group}=zzzzzz") == f"{group}=zzzzzz: no such preset; there are {', '.join(presets)}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("sampling.temprature=1", "sampling.temprature: no such key; did you mean sampling.temperature?"),
        ("temperature=1", "temperature: no such key; did you mean sampling.temperature?"),
        ("sampling.path=1", "sampling.path: no such key; did you mean model.path or source.path or output.path?"),
        ("modle=gpt2", "modle: no such key; did you mean model?"),
        ("+sampling.temprature=1", "sampling.temprature: no such key; did you mean sampling.temperature?"),
        ("++sampling={temprature: 1}", "sampling.temprature: no such key; did you mean sampling.temperature?"),
        ("zzzzzz=1", "zzzzzz: no such key; there are model.…, engine.…"),
        ("sampling.stop.x=1", "sampling.stop.x: no such key"),
        ("hydra.zzz=1", "hydra.zzz: Hydra has no such key"),
        ("benchmark=wikitext", "benchmark=wikitext: this job takes only presets of model, engine, sampling, "),
        ("stats.prompt_logprobs=2", "stats.prompt_logprobs=2: must be true or false"),
        ("source.add_special_tokens=0.5", "source.add_special_tokens=0.5: must be null or true or false"),
        ("model=gpt3", "model=gpt3: no such preset; did you mean 'gpt2'? there are demo, gpt2, "),
        ("model=[gpt2,5]", "model=[gpt2,5]: must be the name of a preset: demo, gpt2"),
        ("experiment={a:1}", "experiment={a:1}: must be the name of a preset: baseline"),
        ("-m sampling.n=glob(*)", "sampling.n=glob(*): no value matches"),
        ("model=5", "model=5: must be the name of a preset: demo, gpt2"),
        ("sampling=null", "sampling=null: must be the name of a preset: creative"),
        ("+model=gpt2", "+model=gpt2: model is set already; write model=gpt2"),
        ("~model", "~model: model cannot be removed"),
        ("~sampling.n", "~sampling.n: sampling.n cannot be removed"),
        ("model.path=null", "model.path=null: must be text"),
        ("sampling.n=1.5", "sampling.n=1.5: must be a whole number"),
        ("sampling.stop=a", "sampling.stop=a: must be a list of texts, such as [a,b]; for one text write sampling.stop=[a]"),
        ("sampling.n=1,2", "sampling.n=1,2: several values; add -m to run each of them"),
        ("-m sampling.n=interval(1,2)", "sampling.n=interval(1,2): an interval has no values to list"),
        ("sampling.n=[1", "sampling.n=[1: not a valid override: sampling.n must be a whole number"),
        ("sampling.stop=[a", "sampling.stop=[a: not a valid override: sampling.stop must be a list of texts"),
        ("sampling.logit_bias={a:1}", "sampling.logit_bias={'a': 1.0}: must be token ids (whole numbers from 0), each once"),
        ("sampling.logit_bias={-1:1}", "sampling.logit_bias={-1: 1.0}: must be token ids"),
        ("sampling.logit_bias=[5]", "sampling.logit_bias=[5]: must be a mapping of token ids to numbers"),
        ("sampling.json_schema={a", "sampling.json_schema={a: is not JSON: "),
        ("sampling.regex=a sampling.choice=[b]", "sampling.regex and choice: exclude each other; give one of regex"),
        ("sampling.n", "sampling.n: not KEY=VALUE, nor GROUP=PRESET"),
        ("=3", "=3: not KEY=VALUE, nor GROUP=PRESET"),
        ("--zzz", "--zzz: no such flag; there are --help, --multirun, --cfg, --resolve, --config-dir; an option is KEY=VALUE"),
        ("--multi-run sampling.n=1", "--multi-run: no such flag; did you mean '--multirun'? there are "),
        ("-cd", "--config-dir: which folder? write --config-dir DIR"),
        ("--cfg all", "--cfg: write --cfg job, which prints the job's configuration"),
        ("--resolve", "--resolve: goes with --cfg job, which prints the job's configuration"),
        ('source.path=a output.path=b cluster.replicas="²"', "cluster.replicas='²': must be auto or a whole number from 1"),
        ("--cfg", "--cfg: write --cfg job, which prints the job's configuration"),
        ("--config-dir nowhere", "--config-dir nowhere: no such folder"),
        ("source.path=a", "output.path is required: the output's folder"),
        ("output.path=a", "source.path is required: the prompts, e.g. source.path=prompts.parquet"),
        ("source.path=a output.path=${oc.env:NO_SUCH}", "output.path: environment variable 'NO_SUCH' not found"),
        ("source.path=a output.path=${nothing}", "output.path: interpolation key 'nothing' not found"),
        ("source.path=a output.path=b cluster=existing cluster.address=null", "cluster.address=null: must be set"),
        ("source.path=a output.path=b source.prompt_column=p source.template=t", "source.prompt_column and template="),
        ("source=token_ids source.path=a output.path=b source.template=t", "source.template and token_ids_column="),
    ],
)  # fmt: skip
def test_what_is_said(arguments: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [arguments] if "={" in arguments else arguments.split()
    assert refused(capsys, *words).startswith(expected)


@pytest.mark.parametrize(
    "value",
    ["Write about {{ topic }}.", '{{ a }} says "no"', "{% if a %}{{ a }}{% endif %}", "it's {{ a }}", "a\n{{ b }}"],
)
def test_the_quoting_that_is_shown_works(value: str, driver: Any, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *PATHS, f"source.template={value}")
    (shown,) = shlex.split(line.partition("in a shell: ")[2])
    assert main(["generate", *PATHS, shown]) == 0
    assert driver.calls.pop()[0].source.template == value


def test_a_mistake_in_a_preset_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text("# @package _global_\nsampling:\n  max_token: 3\n")
    (folder / "broken.yaml").write_text("# @package _global_\nsampling: [\n")
    (folder / "worse.yaml").write_text("# @package _global_\nsampling:\n  n: few\n")
    line = refused(capsys, "-cd", str(tmp_path / "mine"), "experiment=bad")
    assert (
        line == "sampling.max_token: no such key; did you mean sampling.max_tokens? (in the preset experiment/bad.yaml)"
    )
    line = refused(capsys, "-cd", str(tmp_path / "mine"), "experiment=worse")
    assert line == "sampling.n=few: must be a whole number (in the preset experiment/worse.yaml)"
    line = refused(capsys, "-cd", str(tmp_path / "mine"), "experiment=zzz")
    assert line == "experiment=zzz: no such preset; there are bad, baseline, broken, chat, demo, nightly, worse"
    line = refused(capsys, "-cd", str(tmp_path / "mine"), "experiment=broken")
    assert "broken.yaml" in line


def test_a_missing_preset_in_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "-m", "model=gpt2,gpt9", *PATHS).startswith("model=gpt9: no such preset")


def test_registering_twice_does_no_harm() -> None:
    register(JOB.name, JOB.schema)
    register(JOB.name, JOB.schema)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("sampling.temperature=0,7", " (a decimal fraction has a point: sampling.temperature=0.7)"),
        ("sampling.stop=a,b", " (a list is sampling.stop=[a,b])"),
        ("source.path=a,b", """ (a text is quoted; in a shell: 'source.path="a,b"')"""),
        ("sampling.n=1,2", ""),
    ],
)
def test_what_else_several_values_may_mean(
    arguments: str, expected: str, driver: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *PATHS, arguments)
    assert line == f"{arguments}: several values; add -m to run each of them{expected}"
    if expected:
        (suggested,) = shlex.split(line.rpartition(": " if ":" in expected else " is ")[2].removesuffix(")"))
        assert main(["generate", *PATHS, suggested]) == 0, "what is suggested is accepted"
        driver.calls.pop()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("model=openai-community/gpt2", "a model of the hub, or in a folder, is model.path=openai-community/gpt2"),
        ("model=/some/where", "a model of the hub, or in a folder, is model.path=/some/where"),
        ("source=mine.parquet", "the place of the prompts is source.path=mine.parquet"),
        ("output=a/b", "the output's folder is output.path=a/b"),
    ],
)
def test_a_path_in_the_place_of_a_preset(arguments: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, arguments) == f"{arguments}: {arguments.partition('=')[0]} names a preset; {expected}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("sampling.stop=END", "sampling.stop=END: must be a list of texts, such as [a,b]; for one text write sampling"),
        ("source.template_file=nowhere", "source.template_file=nowhere: no such file or directory"),
        ("sampling.json_schema_file=. sampling.json_schema={}", "sampling.json_schema and sampling.json_schema_file=.: "),
        ("deadline=+", "deadline='+': must be null, a local time of day such as 06:00, or +8h or +1h30m"),
    ],
)  # fmt: skip
def test_newer_keys(arguments: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, *PATHS, *arguments.split()).startswith(expected)


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ("score experiment=demo", "only presets of model, engine, stats, source, output, cluster, benchmark"),
        ("score ~experiment", "only presets of model, engine, stats, source, output, cluster, benchmark"),
        (
            "plan benchmark=wikitext",
            "only presets of model, engine, sampling, stats, source, output, cluster, experiment",
        ),
        ("verify output=parquet", "no presets"),
    ],
)
def test_presets_of_another_job(words: str, taken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"promptmill: {words.split()[1]}: this job takes {taken}\n"


def test_a_plan_needs_the_output_that_a_preview_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "source.path=a", "preview=3"]) == 2
    assert capsys.readouterr().err.startswith("promptmill: output.path is required")


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-that-name"])
def test_what_can_be_no_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    key = f'source.template_file="{name}"'
    assert refused(capsys, *PATHS, key).startswith(f"source.template_file={name}: ")
    assert f"{name[:100]}" in refused(capsys, *PATHS, f'model="{name}"')


@pytest.mark.parametrize("value", ["{a", '{"a": 1', '{"type": "object", x}'])
def test_what_is_meant_as_json_and_is_none(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *PATHS, f"sampling.json_schema={value}")
    assert line.startswith(f"sampling.json_schema={value}: is not JSON: ") and line.endswith(
        "or sampling.json_schema_file=FILE"
    )
    assert "_file" not in refused(capsys, *PATHS, f"sampling.logit_bias={value}")


def test_a_schema_file_that_is_no_json_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text('{"a": ')
    key = f"sampling.json_schema_file={tmp_path / 'bad.json'}"
    assert refused(capsys, *PATHS, key).startswith(f"{key}: is not JSON: ")
