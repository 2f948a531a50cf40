"""Runs a job from the command line: help, composition, logging, the runs one after the other, and the exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.options.arguments import Arguments, parse
from jobs.options.page import job_page
from jobs.spec import Config, JobSpec
from pipeline.errors import Interrupted, PromptmillError

if TYPE_CHECKING:
    from jobs.options.compose import Composed

log = logging.getLogger(__name__)


def launch(job: JobSpec[Config], argv: Sequence[str]) -> int:
    """Do what a command line asks of a job.

    Returns:
        The exit code; of several runs the first that is not 0. A failed run does not keep the others from running,
        a signal does.
    """
    # Threads that wait go to sleep after some microseconds: where another process takes a core, products of two threads that
    # spin for long stall each other; where none does, waking up between short products costs. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        arguments = parse(argv, {flag: override for flag, override, _ in job.flags})
        if arguments.help:
            return show(job_page(job) + "\n")
        runs = _composed(job, arguments)
    except PromptmillError as error:
        return tell(error)
    except KeyboardInterrupt:
        return tell(Interrupted("stopped by SIGINT before anything was started"))
    if arguments.show_config:
        return show("---\n".join(run.yaml for run in runs))
    configure_logging(verbose=any(run.verbose for run in runs))
    codes: list[int] = []
    for number, run in enumerate(runs, start=1):
        if len(runs) > 1:
            log.info("run %d of %d: %s", number, len(runs), " ".join(run.overrides))
        code, stopped = _perform(job, run)
        codes.append(code)
        if stopped:
            break
    if len(runs) > 1:
        _tell_of_all(runs, codes)
    return next((code for code in codes if code), 0)


def _composed(job: JobSpec[Config], arguments: Arguments) -> list[Composed[Config]]:
    if job.compose is not None:
        return job.compose(arguments)
    from jobs.options.compose import compose_runs  # late: Hydra is not needed for the help page

    return compose_runs(job.name, job.schema, arguments)


def show(text: str) -> int:
    """Print a page and return 0. A reader that closes the pipe early, as `head` does, has seen enough."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # the interpreter flushes once more at its end, and must not find the closed pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _perform(job: JobSpec[Config], run: Composed[Config]) -> tuple[int, bool]:
    """Do one run.

    Returns:
        Its exit code, and whether a signal ended it.
    """
    assert run.config is not None
    try:
        code = job.run(run.config, run.yaml)
        return code, code in (130, 143)
    except PromptmillError as error:
        return tell(error), isinstance(error, Interrupted)
    except KeyboardInterrupt:
        return tell(Interrupted("interrupted; the same command goes on from there")), True
    except Exception:
        log.exception("unexpected error")
        return 1, False


def tell(error: PromptmillError) -> int:
    """Print an error as one line, with its traceback if `HYDRA_FULL_ERROR=1`, and return its exit code."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error, file=sys.stderr)
    print("promptmill:", " ".join(str(error).split("\n")), file=sys.stderr)
    return error.exit_code


def _tell_of_all(runs: Sequence[Composed[Config]], codes: Sequence[int]) -> None:
    good = sum(code == 0 for code in codes)
    log.info("%d of %d runs complete", good, len(runs))
    for run, code in zip(runs, codes, strict=False):
        if code:
            log.error("exit code %d: %s", code, " ".join(run.overrides))
    if len(codes) < len(runs):
        log.error("%d runs not started", len(runs) - len(codes))


class _StderrHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is now, so that lines do not tear a live display that has replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def configure_logging(*, verbose: bool = False) -> None:
    """Log to stderr, a line a message: time, level, text; other people's libraries only from warnings up."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("jobs", "pipeline"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
