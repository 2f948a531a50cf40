"""Proves an output complete and intact: its plan, its manifest, every part to its last row, and some rows generated again.

It changes no part. It records damaged files for the next `generate`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import ConfigurationError, ExitCode, PlanRefused, PromptmillError
from pipeline.inspect.config import VerifyConfig
from pipeline.inspect.identity import mixtures
from pipeline.inspect.output import Output, open_output
from pipeline.inspect.verify.duplicates import find_duplicates
from pipeline.inspect.verify.findings import REWRITE, Finding
from pipeline.inspect.verify.layout import Layout, read_layout
from pipeline.inspect.verify.parts import check_part
from pipeline.inspect.verify.replay import choose, replay, without_blamed
from pipeline.inspect.verify.wanted import Wanted
from pipeline.output.folder import CONFIG, PLAN
from pipeline.output.part import part_name
from pipeline.output.record.counts import Counts, total
from pipeline.output.record.manifest import MANIFEST
from pipeline.output.repair import FINDINGS, write_down
from pipeline.planning.fingerprint import differences
from pipeline.planning.plan import Plan
from pipeline.wording import counted
from pipeline.work.job import Job

INTERVAL = 5.0
"""Seconds between two lines of progress."""

_log = logging.getLogger(__name__)

Restore = Callable[[str, str, Mapping[str, Any]], Job]
"""Takes the text of `_job/config.yaml`, the output's path and its plan's fingerprint; returns the job, planned again.

Raises a `PromptmillError` if that cannot be done here."""


def verify(config: VerifyConfig, *, tell: Callable[[str], None], restore: Restore) -> int:
    """Check an output, and report each finding as soon as it is found.

    Args:
        config: Which output, and how many rows to generate again.
        tell: Called with each line for the user.
        restore: Returns the job that made the output; called only for a replay.

    Returns:
        0, or 4 when something is wrong.

    Raises:
        PlanRefused: If there is no output.
        PromptmillError: If nothing is wrong, and a replay was asked for that cannot be done here.
    """
    output = open_output(config.output.path)
    return _Verification(output, config, read_layout(output), tell).run(restore)


class _Verification:
    """One output being checked."""

    def __init__(self, output: Output, config: VerifyConfig, layout: Layout, tell: Callable[[str], None]) -> None:
        self._output, self._config, self._layout, self._tell = output, config, layout, tell
        self._findings = 0
        self._damaged: dict[str, None] = {}
        self._intact: list[int] = []
        self._counts: list[Counts] = []
        self._environments: dict[int, Mapping[str, Any]] = {}
        self._told = time.monotonic()

    def run(self, restore: Restore) -> int:
        """Check everything; see `verify`."""
        impossible: PromptmillError | None = None
        self._found(self._layout.findings)
        if self._layout.wanted is not None:
            self._check_parts(self._layout.wanted)
            self._check_together(self._layout.wanted)
            try:
                self._replay(self._layout.wanted.plan, restore)
            except PromptmillError as error:
                impossible = type(error)(f"replay: not possible here: {error}")
        self._tell(self._summary())
        self._write_down()
        if impossible is not None:
            if not self._findings:
                raise impossible
            self._tell(str(impossible))
        return ExitCode.DAMAGED if self._findings else ExitCode.COMPLETE

    def _found(self, findings: Iterable[Finding]) -> bool:
        """Report findings; return whether there are any."""
        before = self._findings
        for finding in findings:
            self._tell(str(finding))
            self._findings += 1
            self._damaged[finding.file] = None
        return self._findings > before

    def _check_parts(self, wanted: Wanted) -> None:
        """Check the existing parts, first each alone and then the ids of all."""
        manifest, plan = self._layout.manifest, wanted.plan
        digests = {part.file: part.sha256 for part in manifest.parts} if manifest is not None else {}
        instead = manifest.environment if manifest is not None else {}
        kept: pa.Schema | None = None
        hashes: dict[str, npt.NDArray[np.int64]] = {}
        shared: dict[str, Mapping[str, Any]] = {}
        for index in self._layout.present:
            name = part_name(plan.plan8, index, plan.shard_count)
            seen = check_part(self._output, wanted, index, sha256=digests.get(name), kept=kept, tick=self._tick)
            if not self._found(seen.findings):
                self._intact.append(index)
            if seen.counts is not None:
                self._counts.append(seen.counts)
                hashes[name] = seen.hashes
            kept = kept or seen.kept
            facts = seen.environment or instead
            self._environments[index] = shared.setdefault(json.dumps(facts, sort_keys=True), facts)
        self._found(find_duplicates(self._output, hashes))

    def _check_together(self, wanted: Wanted) -> None:
        """Compare the totals, and note parts made on different machines, which is no damage."""
        manifest, plan = self._layout.manifest, wanted.plan
        if manifest is not None and len(self._intact) == plan.shard_count:
            made, told = asdict(total(self._counts)), asdict(manifest.totals)
            since = ("finish_reasons", "lengths", "clamped_rows", "cut_off")  # earlier versions did not record these
            silent = set(since) if not manifest.totals.finish_reasons else set()
            different = [name for name in made if made[name] != told[name] and name not in silent]
            self._found(Finding(MANIFEST, f"says {n} {told[n]}, the parts have {made[n]}", REWRITE) for n in different)
        environments = {part_name(plan.plan8, i, plan.shard_count): facts for i, facts in self._environments.items()}
        for line in mixtures(environments):
            self._tell(f"note: {line}")

    def _replay(self, plan: Plan, restore: Restore) -> None:
        """Generate rows of the intact parts again."""
        if not self._config.replay:
            return
        job = _job(self._output, plan, restore)
        chosen = without_blamed(self._output, plan, choose(plan, self._intact, self._config.replay))
        result = replay(self._output, job, chosen, self._environments)
        self._found(result.findings)
        self._tell(str(result))

    def _write_down(self) -> None:
        """Record the damaged files for `generate`: not what was missing at first, which a run may have made meanwhile."""
        there = {PLAN: self._output.planned, MANIFEST: self._output.finished}
        found = [name for name in self._damaged if there.get(name, name in self._output.files)]
        if not found:
            return
        try:
            write_down(self._output.store, found)
        except (PromptmillError, OSError) as error:
            self._tell(f"note: {FINDINGS} cannot be written, so before `generate` runs again, move the files named above "
                       f"elsewhere: {error}")  # fmt: skip

    def _tick(self) -> None:
        """Log the progress from time to time."""
        now = time.monotonic()
        if now - self._told >= INTERVAL:
            self._told = now
            rows = sum(counts.rows for counts in self._counts)
            _log.info(
                "%d/%d parts · %d rows · %d findings",
                len(self._environments), len(self._layout.present), rows, self._findings,
            )  # fmt: skip

    def _summary(self) -> str:
        found = total(self._counts)
        parts = f"{len(self._intact):,} of {len(self._layout.present):,} parts that are there are intact"
        if self._findings:
            return f"{counted(self._findings, 'finding')}; {parts}"
        amounts = (len(self._intact), "part"), (found.rows, "input row"), (found.completions, "output row")
        return f"complete and intact: {', '.join(counted(*amount) for amount in amounts)}"


def _job(output: Output, plan: Plan, restore: Restore) -> Job:
    """Return the job that made the output, with the stored plan.

    Raises:
        PromptmillError: If its configuration is lost, or its model or input has changed.
    """
    try:
        text = output.store.get(CONFIG).decode()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{CONFIG} is missing or is not text") from error
    job = restore(text, output.path, plan.fingerprint)
    if job.plan.plan_id != plan.plan_id:
        there = json.loads(json.dumps(job.plan.fingerprint))  # as JSON reads it back: lists, not tuples
        raise PlanRefused(f"what it was made from has changed: {'; '.join(differences(plan.fingerprint, there))}")
    # An output that was resumed with `on_corrupt=skip` may hold rows that the last run's own setting would stop at.
    return replace(job, plan=plan.located(job.plan.files), source=replace(job.source, on_corrupt="skip"))
