"""The command that makes an output again, from the configuration that is kept with the output."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.options.arguments import Arguments
from jobs.options.compose import Composed, compose_runs
from jobs.options.origin import origin_of
from pipeline.inspect.output import Output
from pipeline.work.config import GenerateConfig

PATHS = ("source.path=in.parquet", "output.path=out")


def composed(*words: str) -> Composed[GenerateConfig]:
    return compose_runs("generate", GenerateConfig, Arguments(words))[0]


def command_of(yaml: str) -> list[str]:
    """The words of the command after the job's name."""
    store = SimpleNamespace(get=lambda name: yaml.encode())
    fingerprint: dict[str, Any] = {"recipe": "generate", "model": {"content": {}}}
    output = SimpleNamespace(path="out", store=store, plan=lambda: SimpleNamespace(fingerprint=fingerprint))
    command = origin_of(cast(Output, output)).command
    assert command is not None
    program, job, *words = shlex.split(command)
    assert (program, job) == ("promptmill", "generate")
    return words


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model=gpt2", "sampling=greedy", "stats=full", "max_error_rate=0.5", "source.keep_columns=[a,b c]"),
        ("experiment=nightly",),
        ("output.path=outputs/${now:%Y-%m-%d}/a b",),
        ("model.path=${oc.env:HOME}/model",),
        ("model.path='~nobody-of-that-name/model'",),
        ('source.template="costs ${{ price }}"',),
        ('sampling.stop=["${",END]',),
        (r'source.template="see https://a.example/{{ b }}, or mail me@a.example\nand then ' + 'x' * 300 + '"',),
        ('sampling.json_schema={"pattern": "^${x}"}', "sampling.logit_bias={5:-1}"),
        ("source.path=s3://bucket/" + "a" * 300,),
        (r'output.path="back\slash and \"quotes\""',),
    ],
)  # fmt: skip
def test_it_asks_for_the_same(words: tuple[str, ...]) -> None:
    given = composed(*PATHS, *words)
    assert composed(*command_of(given.yaml)).yaml == given.yaml


def test_it_has_no_password() -> None:
    words = command_of(composed(*PATHS, "source.path='https://me:secret@a.example/x.parquet'").yaml)
    assert "source.path=https://***@a.example/x.parquet" in [word.replace('"', "") for word in words]
