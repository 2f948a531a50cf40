"""The whole configuration of `score`. Imports no Ray, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pipeline.engine.config import StatsConfig
from pipeline.output.config import OutputConfig
from pipeline.output.scores.names import ACCURACIES
from pipeline.prompts.scored.config import HIDDEN, ScoreOptions, ScoreSource
from pipeline.sampling import require
from pipeline.work.config import GenerateConfig
from pipeline.work.sampling import SamplingConfig
from pipeline.work.score.benchmark import BenchmarkConfig, check_expected


@dataclass(kw_only=True)
class ScoreStats(StatsConfig):
    """The statistics that are written per scored token."""

    prompt_logprobs: bool = field(default=False, metadata={"fixed": True})  # a preset for `generate` may set it

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        self.prompt_logprobs = False


@dataclass(kw_only=True)
class ScoreOutput(OutputConfig):
    """The output folder and its Parquet files."""

    include_prompt: bool = field(
        default=True, metadata={"help": "write context and text beside their scores, not only their tokens"}
    )
    messages: bool = field(default=False, metadata=HIDDEN)


@dataclass(kw_only=True)
class ScoreConfig(GenerateConfig):
    """All options of `score`: those of `generate` that are not about sampling, and its own."""

    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(temperature=0.0, max_tokens=1), metadata=HIDDEN
    )
    stats: ScoreStats = field(
        default_factory=ScoreStats,
        metadata={"help": "what is written per scored token, all under the model's own distribution"},
    )
    source: ScoreSource = field(default_factory=ScoreSource, metadata={"help": "which texts are scored"})
    score: ScoreOptions = field(default_factory=ScoreOptions, metadata={"help": "how texts are scored"})
    output: ScoreOutput = field(default_factory=ScoreOutput, metadata={"help": "where scores go"})
    benchmark: BenchmarkConfig = field(
        default_factory=BenchmarkConfig, metadata={"help": "which benchmark this is, and what was published about it"}
    )
    expect: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "figure → number or [lowest,highest], such as {perplexity:29.94}; exit code 6 if one is off; {}: what "
            "benchmark.published says"
        },
    )
    explain: bool = field(
        default=False,
        metadata={"help": "when a figure is off, score anew in other ways, and say under which it is as expected"},
    )
    explain_sources: list[str] = field(
        default_factory=list, metadata={"help": "other versions of the text for explain, as source.path"}
    )
    results: str | None = field(
        default=None, metadata={"help": "a file for the figures, in the form of lm-evaluation-harness' results"}
    )
    preview: int | None = field(default=None, metadata=HIDDEN)
    preview_random: bool = field(default=False, metadata=HIDDEN)

    def __post_init__(self) -> None:
        """Check the fields that need another section."""
        super().__post_init__()
        check_expected(self.expect, "expect")
        require(self.results is None or bool(self.results.strip()), "results", self.results, "null or a file")
        score, source = self.score, self.source
        require(
            not score.concatenate or not (source.paired or source.token_ids_column), "score.concatenate", score.concatenate,
            "false with completions, endings or token ids: only whole texts can be joined",
        )  # fmt: skip
        require(
            not score.bos or not source.paired, "score.bos", score.bos,
            "false with completions or endings: only the first token of a whole text has nothing before it",
        )  # fmt: skip
        require(
            not score.unconditional or source.choice, "score.unconditional", score.unconditional,
            "false without source.endings_column",
        )  # fmt: skip
        require(
            score.detokenize is None or not source.paired, "score.detokenize", score.detokenize,
            "null with completions or endings: only whole texts",
        )  # fmt: skip
        require(
            not self.explain_sources or self.explain, "explain_sources", self.explain_sources, "given with explain=true"
        )
        require(
            not score.delimiter or (source.paired and source.task is None), "score.delimiter", score.delimiter,
            "empty without source.completion_column or source.endings_column",
        )  # fmt: skip
        for key, figures in (("expect", self.expect), self._published()):
            for name, value in figures.items():
                lacking = self._lacking(name)
                require(lacking is None, f"{key}.{name}", value, f"left out: this run has no such figure {lacking}")

    def _published(self) -> tuple[str, Mapping[str, Any]]:
        """Return the key of what is expected where `expect` names nothing, and the figures."""
        model = self.model.path
        return f"benchmark.published.{PurePath(model).name}", {} if self.expect else self.benchmark.expected_of(model)

    def _lacking(self, figure: str) -> str | None:
        """Return what keeps the run from having a figure, as a phrase; None if it has it."""
        source = self.source
        if source.choice and figure not in ACCURACIES:
            return "where endings are scored, of which accuracies are taken"
        due = {
            "source.endings_column": figure not in ACCURACIES or source.choice,
            "source.answer_column": figure not in ACCURACIES or bool(source.answer_column or source.task),
            "score.unconditional=true": figure != "accuracy_unconditional" or self.score.unconditional,
            "source.completion_column": figure not in ("text_perplexity", "greedy_accuracy") or source.paired,
            "rank in stats.columns": figure != "greedy_accuracy" or "rank" in self.stats.columns,
        }
        return next((f"without {option}" for option, there in due.items() if not there), None)
