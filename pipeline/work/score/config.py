"""The whole configuration of `score`. Imports no Ray, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.config import StatsConfig
from pipeline.output.config import OutputConfig
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
            "help": "figure → number or [lowest,highest]; exit code 6 if one is off; {}: what benchmark.published says"
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
