"""The command line of `score`; what it scores is tested in tests/end_to_end/score."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.options.arguments import Arguments
from jobs.options.compose import compose_runs
from jobs.options.restore import restored
from jobs.score import text_of
from pipeline.work.score.benchmark import BenchmarkConfig
from pipeline.work.score.config import ScoreConfig


def test_a_variant_of_a_run_is_kept_without_the_secrets_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    words = (
        "source.path=https://a.example/${oc.env:MY_SECRET}/x.parquet", "output.path=out/${now:%Y}", "explain=true",
        "benchmark=wikitext2", "expect={word_perplexity:1}",
    )  # fmt: skip
    (composed,) = compose_runs("score", ScoreConfig, Arguments(words))
    first = composed.config
    assert first is not None and "hunter2" in first.source.path
    run = replace(
        first, output=replace(first.output, path="out-explain/${x}"), score=replace(first.score, bos=False),
        benchmark=BenchmarkConfig(), expect={}, explain=False,
    )  # fmt: skip
    text = text_of(run, first, composed.yaml)
    assert "hunter2" not in text and "${oc.env:MY_SECRET}" in text
    assert restored(text, ScoreConfig, "out-explain/${x}") == run
