"""`promptmill report`: one page about an output, to look at and to pass on."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING

from jobs.console.launch import launch, show
from jobs.console.leave import leave
from jobs.spec import JobSpec
from pipeline.errors import ExitCode
from pipeline.inspect.config import ReportConfig
from pipeline.wording import masked, named, without_secrets

if TYPE_CHECKING:
    from pipeline.inspect.output import Output

log = logging.getLogger(__name__)


def run(config: ReportConfig, config_yaml: str) -> int:
    """Write the report, say where it is, and return the exit code."""
    from pipeline.stages import Stage

    with Stage("starting"):
        from pipeline.inspect.output import open_output  # late: these bring in pyarrow
        from pipeline.run.signals import signals_raise

    path = config.output.path
    with signals_raise(), Stage(f"reading {without_secrets(path)}"):
        name = _written(open_output(path))
    return show(_place(path, name) + "\n")


def report_of_a_run(path: str, *, worked: bool) -> None:
    """Write the report at the end of a run; what goes wrong is a warning, for the output is complete.

    Args:
        path: The output.
        worked: Whether the run did anything; if not, a report that is there stays.
    """
    from pipeline.inspect.output import open_output
    from pipeline.output.card.seal import holds_sealed
    from pipeline.output.folder import REPORT
    from pipeline.stages import Stage

    try:
        output = open_output(path)
        if worked or not holds_sealed(output.store, REPORT):
            with Stage("writing the report"):
                name = _written(output)
            print(f"  report  {_place(path, name)}", file=sys.stderr)
    except KeyboardInterrupt:
        log.warning("the report was interrupted; the output is complete, and `promptmill report` writes it")
    except Exception as error:  # whatever it is, the rows are there
        log.warning("the report could not be written: %s; the output is complete", named(error))


def _written(output: Output) -> str:
    from jobs.options.origin import origin_of
    from pipeline.inspect.report.report import report

    return report(output, origin_of)


def _place(path: str, name: str) -> str:
    return masked(f"{path.rstrip('/')}/{name}")


JOB = JobSpec(
    name="report",
    summary="one page about an output: a verdict, plots, tokens in colours, how the run went",
    schema=ReportConfig,
    run=run,
    positional=("output.path",),
    usage=("OUT", "output.path=OUT"),
    examples=(("outputs/first/report.html", "promptmill report outputs/first"),),
    exit_codes=(
        ExitCode.COMPLETE, ExitCode.UNEXPECTED, ExitCode.REFUSED, ExitCode.STOPPED, ExitCode.INTERRUPTED, ExitCode.TERMINATED,
    ),
)  # fmt: skip


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
