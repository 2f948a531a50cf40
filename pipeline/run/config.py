"""The options of `submit`, `plan` and `doctor`. Imports no Ray, so that `--help` is quick."""

from __future__ import annotations

import math
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.types import require
from pipeline.work.config import GenerateConfig
from pipeline.work.score.config import ScoreConfig


@dataclass(kw_only=True)
class SubmitConfig:
    """The options of `submit` itself; everything else on its command line belongs to the submitted job.

    `submission_id` names the submission: submitted twice, it runs once. None makes a name from the time. `address` is the
    address of the cluster's job server, such as http://head:8265; None takes it from Ray's environment variables, or this
    machine.
    """

    job: str = field(
        default="generate", metadata={"help": "the job to run there; all keys that are not named here are its own"}
    )
    submission_id: str | None = field(
        default=None,
        metadata={"help": "the submission's name, such as nightly-${now:%Y-%m-%d}: submitted twice, it runs once"},
    )
    address: str | None = field(
        default=None,
        metadata={
            "help": "the cluster's job server, such as http://head:8265; null: Ray's own variables, or this machine"
        },
    )
    wait: bool = field(
        default=True,
        metadata={
            "help": "show what the job prints until it ends, and end with its exit code; --no-wait is wait=false"
        },
    )
    python: str = field(
        default="python", metadata={"help": "the interpreter on the cluster's head that has what promptmill needs"}
    )

    def __post_init__(self) -> None:
        """Check every field, and choose an id if none is given."""
        given = self.submission_id
        self.id = given if given is not None else f"promptmill-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        require(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.id) is not None, "submission_id", given,
            "up to 100 letters, digits, dots, dashes and underscores, such as nightly-2026-11-22",
        )  # fmt: skip


@dataclass(kw_only=True)
class FutureOutput:
    """The output folder that a job shall write to."""

    path: str | None = field(
        default=None,
        metadata={"help": "the folder of a future output, whose store and disk are tried; null: try none"},
    )

    def __post_init__(self) -> None:
        """Check the field."""
        require(self.path is None or bool(self.path.strip()), "path", self.path, "null, a directory or a URI")


@dataclass(kw_only=True)
class DoctorConfig:
    """All options of `doctor`."""

    output: FutureOutput = field(default_factory=FutureOutput, metadata={"help": "where generations are to go"})
    json: bool = field(default=False, metadata={"help": "print JSON instead of lines"})


_JOB = {"help": "the job that is planned: generate or score, whose options the others are"}
_PRICE = {"help": "what an hour of one machine costs; null leaves the cost out"}
_JSON = {"help": "print one JSON object"}


@dataclass(kw_only=True)
class PlanConfig(GenerateConfig):
    """The options of `plan`: those of `generate`, and what is shown.

    `price_per_hour` is that of one machine, in any currency. With `json`, one JSON object is printed.
    """

    job: str = field(default="generate", metadata=_JOB)
    price_per_hour: float | None = field(default=None, metadata=_PRICE)
    json: bool = field(default=False, metadata=_JSON)

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        require(self.job == "generate", "job", self.job, "generate or score, the same for all runs")
        _check_price(self.price_per_hour)


@dataclass(kw_only=True)
class PlanScoreConfig(ScoreConfig):
    """The options of `plan job=score`: those of `score`, and what is shown; see `PlanConfig`."""

    job: str = field(default="score", metadata=_JOB)
    price_per_hour: float | None = field(default=None, metadata=_PRICE)
    json: bool = field(default=False, metadata=_JSON)

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        require(self.job == "score", "job", self.job, "generate or score, the same for all runs")
        _check_price(self.price_per_hour)


def _check_price(price: float | None) -> None:
    good = price is None or (math.isfinite(price) and price >= 0)
    require(good, "price_per_hour", price, "null or a price from 0")
