from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from jobs.help.page import default_presets, presets
from jobs.options.arguments import Arguments
from jobs.options.compose import compose_runs
from pipeline.work.config import GenerateConfig
from pipeline.work.score.config import ScoreConfig

CONF = Path(__file__).parents[2] / "conf"
PRESETS = [(path.parent.name, path.stem) for path in sorted(CONF.glob("*/*.yaml"))]
IDS = ["/".join(preset) for preset in PRESETS]
PATHS = ("source.path=in.parquet", "output.path=out")


def composed(*overrides: str) -> GenerateConfig:
    (run,) = compose_runs("generate", GenerateConfig, Arguments(overrides))
    assert type(run.config) is GenerateConfig
    return run.config


def scored(*overrides: str) -> ScoreConfig:
    (run,) = compose_runs("score", ScoreConfig, Arguments(overrides))
    assert type(run.config) is ScoreConfig
    return run.config


@pytest.fixture(autouse=True)
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo-model").mkdir()
    (tmp_path / "prompts.parquet").touch()
    monkeypatch.setattr("jobs.options.schema.EXAMPLES", tmp_path)


@pytest.mark.parametrize(("group", "preset"), PRESETS, ids=IDS)
def test_composes(group: str, preset: str) -> None:
    if group != "benchmark":
        composed(f"{group}={preset}", *PATHS)
    if group in default_presets("score"):
        scored(f"{group}={preset}", *PATHS)


@pytest.mark.parametrize("preset", [preset for group, preset in PRESETS if group == "benchmark"])
def test_a_benchmark_says_what_was_published(preset: str) -> None:
    benchmark = scored(f"benchmark={preset}", *PATHS).benchmark
    assert benchmark.name == preset and benchmark.status in ("reproduced", "paper") and benchmark.sources
    for model, figures in benchmark.published.items():
        assert (
            benchmark.expected_of(f"openai-community/{model}") == benchmark.expected_of(f"/models/{model}") == figures
        )
        # what no public script gives is a range
        assert all(isinstance(v, list) == (benchmark.status == "paper") for v in figures.values())


@pytest.mark.parametrize("experiment", ["demo"])
def test_needs_nothing_more(experiment: str) -> None:
    composed(f"experiment={experiment}")


def test_the_default_presets_are_the_defaults_of_the_dataclasses() -> None:
    config = GenerateConfig()
    config.source.path, config.output.path = "in.parquet", "out"
    assert composed(*PATHS) == config
    of_scores = ScoreConfig()
    of_scores.source.path, of_scores.output.path = "in.parquet", "out"
    assert scored(*PATHS) == of_scores


@pytest.mark.parametrize(("group", "preset"), PRESETS, ids=IDS)
def test_only_picks_and_overrides(group: str, preset: str) -> None:
    text = (CONF / group / f"{preset}.yaml").read_text()
    assert "_target_" not in text
    assert isinstance(yaml.safe_load(text), dict)
    assert presets(group)[preset], "the comment at the head is the preset's line on the help page"


def test_every_group_has_a_default() -> None:
    assert {*default_presets("generate"), *default_presets("score")} == {group for group, _ in PRESETS}


def test_the_demo() -> None:
    config = composed("experiment=demo")
    assert config.source.id_column == "id"
    assert config.source.keep_columns == ["topic"]
    assert config.output.path == "outputs/demo"
    assert (config.cluster.name, config.cluster.replicas) == ("local", "auto")


def test_the_command_line_wins_over_an_experiment() -> None:
    config = composed("experiment=demo", "sampling.max_tokens=5", "cluster=inline", "output.path=here")
    assert (config.sampling.max_tokens, config.cluster.name, config.output.path) == (5, "inline", "here")


def test_hydra_is_left_as_it_was() -> None:
    from hydra.core.global_hydra import GlobalHydra

    composed(*PATHS)
    assert not GlobalHydra.instance().is_initialized()
    assert logging.getLogger("hydra").level == logging.ERROR
