"""What a report is about: an output, what was measured of it, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.inspect.report.measure.measured import Measured
from pipeline.inspect.report.timeline import Timeline
from pipeline.output.record.manifest import Manifest
from pipeline.output.record.prediction import Prediction
from pipeline.planning.plan import Plan
from pipeline.sampling import SamplingParams
from pipeline.types import FinishReason, Tokenizer

_TRUNCATING = ("top_k", "top_p", "min_p")
_CHANGING = (
    "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "bad_words", "regex", "choice", "json_schema",
    "min_tokens",
)  # fmt: skip
_ORDINARY = SamplingParams().plain()


@dataclass(frozen=True, slots=True)
class Origin:
    """What the configuration that is kept with an output says, and what is at hand of the model. None: it is not known.

    Attributes:
        job: The job that made it.
        command: A command that makes it again.
        model: The model's name for the public.
        commit: The commit of the hub's repository.
        licence: As the model's own card states it.
        tokenizer: Spells its tokens.
    """

    job: str = "generate"
    command: str | None = None
    model: str | None = None
    commit: str | None = None
    licence: str | None = None
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class Subject:
    """An output and all that is known of it; a plan or a manifest that is missing or cannot be read is None."""

    plan: Plan | None
    manifest: Manifest | None
    measured: Measured
    timeline: Timeline
    prediction: Prediction | None
    origin: Origin

    @property
    def made(self) -> Mapping[str, Any]:
        """The plan's fingerprint; empty without a plan."""
        return self.plan.fingerprint if self.plan is not None else {}

    @property
    def sampling(self) -> Mapping[str, Any]:
        """The sampling parameters; those that the plan does not name have their ordinary values."""
        found = self.made.get("sampling")
        return {**_ORDINARY, **(found if isinstance(found, Mapping) else {})}

    @property
    def overridden(self) -> bool:
        """Whether a column of the input may change the sampling parameters of a row."""
        source = self.made.get("source")
        return isinstance(source, Mapping) and source.get("sampling_column") is not None

    @property
    def generated(self) -> bool:
        """Whether the texts were generated; else they were given, and scored."""
        return self.origin.job == "generate"

    @property
    def rows(self) -> int:
        """Input rows that are planned; without a plan those that are there."""
        return self.measured.tally.rows if self.plan is None else self.plan.rows

    @property
    def incomplete(self) -> bool:
        """Whether a finished output has no longer all of its rows."""
        return self.manifest is not None and self.measured.tally.rows < self.rows

    @property
    def errors(self) -> int:
        """Output rows that are errors."""
        return sum(self.measured.tally.errors.values())

    @property
    def texts(self) -> int:
        """Output rows that are none."""
        return self.measured.tally.completions - self.errors

    @property
    def seconds(self) -> float | None:
        """Seconds in which a driver was at work."""
        if self.timeline.sessions:
            return self.timeline.length
        return self.manifest.timings.get("wall_seconds") if self.manifest is not None else None

    @property
    def rate(self) -> float | None:
        """Generated tokens per second of all replicas together, from the first that was ready to the last part."""
        if (known := self.timeline.rate) is not None:
            return known
        return self.manifest.timings.get("tokens_per_second") or None if self.manifest is not None else None

    @property
    def cut(self) -> float:
        """Share of the texts that end at max_tokens or at the end of the context."""
        lengths = self.measured.tally.lengths.get(FinishReason.LENGTH)
        return float(lengths.sum()) / self.texts if lengths is not None and self.texts else 0.0

    @property
    def truncating(self) -> list[str]:
        """The settings that forbid unlikely tokens, as `top_k=40`."""
        return [f"{name}={self.sampling[name]}" for name in _TRUNCATING if self.sampling[name] != _ORDINARY[name]]

    @property
    def changing(self) -> list[str]:
        """The settings that change the distribution in other ways."""
        return [name for name in _CHANGING if self.sampling[name] != _ORDINARY[name] and self.sampling[name]]

    def uncalibrated(self) -> str | None:
        """Return why the sampled tokens need not follow the model's distribution; None: they must."""
        if not self.generated:
            return "the texts were given, not sampled"
        if self.overridden:
            return "rows bring sampling parameters of their own"
        if not self.made:
            return "the plan, which has the sampling parameters, cannot be read"
        if self.sampling["temperature"] != 1.0:
            return f"temperature={self.sampling['temperature']:g} samples from another distribution than the model's"
        reasons = [*self.truncating, *self.changing]
        return f"{', '.join(reasons)}: samples from another distribution than the model's" if reasons else None
