"""Makes the report of an output and puts it beside its parts; in the same output it has the same bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.errors import PlanRefused, PromptmillError
from pipeline.inspect.output import Output
from pipeline.inspect.page.shell import page
from pipeline.inspect.report.event_logs import read_timeline
from pipeline.inspect.report.measure.measured import measure
from pipeline.inspect.report.sections import distribution, first, run, texts, tokens
from pipeline.inspect.report.sections import origin as origins
from pipeline.inspect.report.subject import Origin, Subject
from pipeline.output.card.seal import put_sealed
from pipeline.output.folder import REPORT
from pipeline.output.record.manifest import Manifest
from pipeline.output.record.prediction import read_prediction
from pipeline.planning.plan import Plan
from pipeline.wording import one_line

log = logging.getLogger(__name__)


def report(output: Output, origin: Callable[[Output], Origin]) -> str:
    """Write an output's report, and return its stored name: `report.html`, unless somebody else's file has that name.

    Args:
        output: Finished or not.
        origin: Finds what its configuration says, and the tokenizer.

    Raises:
        PromptmillError: If a part is damaged, or the page cannot be written.
    """
    return put_sealed(output.store, REPORT, made(output, origin))


def made(output: Output, origin: Callable[[Output], Origin]) -> bytes:
    """Return the report's bytes, without its seal."""
    subject = Subject(
        _plan(output), _manifest(output), measure(output), read_timeline(output.store), read_prediction(output.store),
        origin(output),
    )  # fmt: skip
    sections = [distribution, texts, tokens, run, origins]
    return page(first.title(subject), first.head(subject), [part.section(subject) for part in sections])


def _plan(output: Output) -> Plan | None:
    try:
        return output.plan()
    except (ValueError, FileNotFoundError, PromptmillError) as error:
        log.warning("the plan is left out: %s", one_line(error))
        return None


def _manifest(output: Output) -> Manifest | None:
    if not output.finished:
        return None
    try:
        return output.manifest()
    except (ValueError, FileNotFoundError, PlanRefused) as error:
        log.warning("the manifest is left out: %s", one_line(error))
        return None
