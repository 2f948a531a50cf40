"""Runs a job from the command line: help, composition, logging, the runs one after the other, and the exit code."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.console import streams
from jobs.help.page import job_page
from jobs.options.arguments import Arguments, parse
from jobs.spec import Config, JobSpec
from pipeline.errors import Interrupted, PromptmillError

if TYPE_CHECKING:
    from jobs.options.compose import Composed

log = logging.getLogger(__name__)


def launch(job: JobSpec[Config], argv: Sequence[str] | None = None) -> int:
    """Run a job.

    Args:
        job: The job.
        argv: The words after its name; None: those of this process's command line.

    Returns:
        The exit code; of several runs the first that is not 0. After a failed run the others still run; after a signal
        they do not.
    """
    streams.prepare()
    # Waiting threads sleep after some microseconds. If they spun for long while another process takes a core, two threads of
    # one product would stall each other; if they slept at once, waking up between short products would cost time. torch
    # reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    once = gc.isenabled() and not gc.get_freeze_count()
    if once:  # what is made until a run begins stays until the end
        gc.disable()
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv, {flag: override for flag, override, _ in job.flags})
        if arguments.help:
            return show(job_page(job) + "\n")
        runs = compose(job, arguments)
    except PromptmillError as error:
        return tell(error)
    except KeyboardInterrupt:
        return tell(Interrupted("stopped by SIGINT before anything was started"))
    finally:
        if once:
            gc.freeze()
            gc.enable()
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


def compose(job: JobSpec[Config], arguments: Arguments) -> list[Composed[Config]]:
    """Compose the runs that a command line asks for.

    Raises:
        PromptmillError: If anything in their configuration is wrong.
    """
    if job.compose is not None:
        return job.compose(arguments)
    from jobs.options.compose import compose_runs  # imported late: the help page needs no Hydra
    from jobs.options.words import placed

    if job.positional:
        arguments = placed(arguments, job.positional, job.verbatim)
    return compose_runs(job.name, job.schema, arguments)


def show(text: str) -> int:
    """Print a page and return 0. It is no error if the reader closes the pipe early, as `head` does."""
    streams.write(text)
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
        return tell(Interrupted("interrupted; the same command resumes from there")), True
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
    """Writes to the current `sys.stderr`, so that lines do not break a live display that has replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def configure_logging(*, verbose: bool = False) -> None:
    """Log to stderr, one line per message: time, level, text; of other libraries only warnings and errors."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("jobs", "pipeline"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
