"""The exceptions that end a job, each with its exit code; what goes wrong with one row is a value, `RowError`.

    PromptmillError                 1   something unexpected
    ├── Refused                     2   nothing was started and nothing written
    │   ├── ConfigurationError          a key, its value, and what is allowed
    │   ├── InputRefused                input files or columns that cannot be used
    │   ├── ModelRefused                a model that is missing, unsafe or not served
    │   └── PlanRefused                 the output folder holds another plan
    ├── CorruptInput                1   a page of an input file cannot be read; committed parts stay
    ├── WorkerFailed                1   a shard failed, and a retry would fail too
    ├── Resumable                  75   stopped early; the same command resumes from there
    │   ├── StorageFull                 no space left; nothing half-written stays
    │   ├── StoreUnavailable            an object store does not answer, or answers wrongly
    │   ├── DeadlineReached             the configured deadline passed
    │   ├── ClusterLost                 replicas cannot be started, or keep dying
    │   └── DeviceFault                 the device of a replica no longer works
    └── Interrupted           130/143   SIGINT or SIGTERM; the same command resumes from there

`jobs` prints the message as one line and exits with `exit_code`.
"""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ends. The help pages, the README and the operations page take the meanings from here."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """Give a code its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    COMPLETE = 0, "complete"
    UNEXPECTED = 1, "unexpected error"
    REFUSED = 2, "configuration or plan refused; nothing started, nothing written"
    TOO_MANY_ERRORS = 3, "complete, but more than max_error_rate of the rows are errors"
    DAMAGED = 4, "verify: something is wrong; each finding is a line that says how to repair it"
    DIFFERENT = 5, "diff: the two outputs differ"
    OFF = 6, "complete, but a figure is not what is expected of it"
    TO_FIX = 7, "doctor: something must be fixed; its line says how"
    STOPPED = 75, "stopped early (deadline, storage full, lost cluster); the same command resumes from there"
    INTERRUPTED = 130, "interrupted (SIGINT); the same command resumes from there"
    TERMINATED = 143, "terminated (SIGTERM); the same command resumes from there"


class PromptmillError(Exception):
    """Base of every error whose message is meant for the person who runs the job."""

    exit_code: int = ExitCode.UNEXPECTED


class Refused(PromptmillError):
    """The job cannot start as asked; nothing was started and nothing was written."""

    exit_code = ExitCode.REFUSED


class ConfigurationError(Refused):
    """A configuration key has a value that is not allowed."""


class InputRefused(Refused):
    """The input files, or the columns asked for, cannot be used."""


class ModelRefused(Refused):
    """The model is missing, is not safe to load, or is of a kind that the engine does not serve."""


class PlanRefused(Refused):
    """The output folder belongs to another plan, or cannot be used."""


class CorruptInput(PromptmillError):
    """Part of an input file cannot be decoded. Parts that are already committed stay."""


class WorkerFailed(PromptmillError):
    """A shard failed, and a retry would not help."""


class Resumable(PromptmillError):
    """The job stopped early; the same command resumes it."""

    exit_code = ExitCode.STOPPED


class StorageFull(Resumable):
    """The output's storage has no space left."""


class StoreUnavailable(Resumable):
    """The store of the output or of the input does not answer, even after retries."""


class DeadlineReached(Resumable):
    """The configured deadline passed."""


class ClusterLost(Resumable):
    """Replicas cannot be started, or keep dying."""


class DeviceFault(Resumable):
    """The device of a replica no longer works in this process; it may work in another one."""


class Interrupted(PromptmillError):
    """A signal asked the job to stop; the same command resumes it."""

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        """Remember the signal: the exit code is 128 + its number, as shells expect."""
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int]]:
        """Keep the signal when the exception crosses a process border."""
        return type(self), (str(self), self.signum)
