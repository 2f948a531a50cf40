"""The manifest, written last: its existence means success, and it lists what a complete output consists of."""

from __future__ import annotations

import io
import itertools
import json
import logging
import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline import __version__
from pipeline.errors import PlanRefused, WorkerFailed
from pipeline.output.part import (
    FOLDER,
    SMALLEST,
    parse_part_name,
    part_name,
    read_report,
    sha256_of,
)
from pipeline.output.record.counts import Counts, total
from pipeline.output.scores.figures import figures
from pipeline.planning.plan import Plan
from pipeline.store.base import Store
from pipeline.store.door import checked, fetch, parse
from pipeline.types import ShardReport

MANIFEST = "_job/manifest.json"
BATCH = 1000
"""Number of parts processed at a time: the facts about a million parts are too much to hold at once."""
SHOWN = 5
"""Most names in a message."""
_DIGEST = re.compile("[0-9a-f]{64}")

_log = logging.getLogger(__name__)


class DamagedPart(WorkerFailed):
    """A part that cannot be read; the next start sets it aside if it is recorded (see `repair`)."""

    def __init__(self, file: str, what: str) -> None:
        """Remember its stored name."""
        super().__init__(f"{what}; run the same command again, which sets it aside and makes it again")
        self.file = file


@dataclass(frozen=True, slots=True)
class Part:
    """A committed part: its stored name, its input rows, its SHA-256 in hex."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `_job/manifest.json`. Times are in seconds; a rate without a value is None."""

    plan_id: str
    promptmill_version: str
    totals: Counts
    timings: Mapping[str, float | None]
    parts: tuple[Part, ...]
    environment: Mapping[str, Any]
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the file's bytes, with one line per part; `json` would indent every value of up to a million parts."""
        totals = asdict(self.totals)
        if not self.totals.sums:
            del totals["sums"]  # of a job that does not score
        head = {
            "plan_id": self.plan_id, "promptmill_version": self.promptmill_version, "totals": totals,
            "timings": self.timings, **({"figures": dict(self.figures)} if self.figures else {}),
        }  # fmt: skip
        file = io.BytesIO()
        file.write(_indented(head).removesuffix("\n}").encode() + b',\n  "parts": [')
        for number, part in enumerate(self.parts):
            line = json.dumps({"file": part.file, "rows": part.rows, "sha256": part.sha256})
            file.write(f"{',' if number else ''}\n    {line}".encode())
        environment = _indented(self.environment).replace("\n", "\n  ")
        file.write(f'\n  ],\n  "environment": {environment}\n}}\n'.encode())
        return file.getvalue()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parse the file's bytes.

        Raises:
            ValueError: If they are not a manifest.
        """
        return parse(data, cls, hook=_part_or_mapping)


def _indented(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, allow_nan=False)


def _part_or_mapping(value: dict[str, Any]) -> Part | dict[str, Any]:
    """Turn a part's mapping into a `Part` while parsing: a million mappings would take several times the memory."""
    if value.keys() != {"file", "rows", "sha256"}:
        return value
    part: Part = checked(value, Part, "parts")
    if part.rows < 0 or not _DIGEST.fullmatch(part.sha256):
        raise ValueError(f"parts: {part.file}: its rows or its sha256 are none")
    return part


def read_manifest(store: Store) -> Manifest | None:
    """Return the manifest, or None if there is none yet.

    Raises:
        PlanRefused: If the file is there but is not a manifest.
    """
    try:
        return Manifest.from_json(fetch(store, MANIFEST))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise PlanRefused(f"{MANIFEST} is not a manifest of promptmill: {error}; choose another output.path") from error


def assemble(
    store: Store,
    plan: Plan,
    reports: Mapping[int, ShardReport],
    timings: Mapping[str, float],
    environment: Mapping[str, Any],
) -> Manifest:
    """Check that the output is complete, and return its manifest without writing it: the card and the report come first.

    Args:
        store: The output folder.
        plan: Its plan, as `OutputFolder.claim_plan` returned it.
        reports: Shard → report, for this driver's shards; of the other parts, the footer and the SHA-256 are read.
        timings: `wall_seconds`, `engine_seconds`, `tokens_per_second`.
        environment: Versions, processor, dtype, threads.

    Raises:
        WorkerFailed: If parts are missing, cannot be read, or do not hold the planned rows.
        PlanRefused: If a part belongs to another plan.
    """
    _check_listing(store, plan)
    parts, totals = list[Part](), Counts()
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="finish") as pool:
        for start in range(0, plan.shard_count, BATCH):
            batch = range(start, min(start + BATCH, plan.shard_count))
            # If a part was already there, its counts come from the file, not from this driver's own attempt.
            found = {
                index: _reported(report)
                for index in batch
                if (report := reports.get(index)) is not None and not report.already_there
            }
            unknown = [index for index in batch if index not in found]
            found.update(zip(unknown, pool.map(lambda index: _read(store, plan, index), unknown), strict=True))
            parts += [_part(plan, index, *found[index]) for index in batch]
            totals = total([totals, *(counts for counts, _ in found.values())])
    finite = {key: value if math.isfinite(value) else None for key, value in timings.items()}
    scored = figures(totals.sums)
    return Manifest(plan.plan_id, __version__, totals, finite, tuple(parts), dict(environment), scored)


def _part(plan: Plan, index: int, counts: Counts, sha256: str) -> Part:
    name, planned = part_name(plan.plan8, index, plan.shard_count), plan.shard_rows(index)
    if counts.rows != planned:
        raise WorkerFailed(f"{name} holds {counts.rows} input rows; {planned} were planned")
    return Part(name, planned, sha256)


def put_manifest(store: Store, manifest: Manifest) -> Manifest:
    """Write the manifest, the last file of an output, and return the one that is there afterwards.

    An existing manifest that lists exactly these parts stays: another driver was faster. One that lists other bytes is
    replaced: a part was lost after the manifest was written, and was made again.
    """
    if store.put_if_absent(MANIFEST, manifest.to_json()):
        return manifest
    existing = read_manifest(store)
    if existing is not None and (existing.plan_id, existing.parts) == (manifest.plan_id, manifest.parts):
        return existing
    store.put(MANIFEST, manifest.to_json())
    return manifest


def _check_listing(store: Store, plan: Plan) -> None:
    present, foreign = bytearray(plan.shard_count), list[str]()
    for file in store.list(FOLDER):
        found = parse_part_name(file.name)
        if (
            found
            and file.size >= SMALLEST
            and (found.plan8, found.count) == (plan.plan8, plan.shard_count)
            and found.index < found.count
        ):
            present[found.index] = True
        else:
            foreign.append(file.name)
    if missing := present.count(0):
        first = (index for index, there in enumerate(present) if not there)
        names = [part_name(plan.plan8, index, plan.shard_count) for index in itertools.islice(first, SHOWN)]
        raise WorkerFailed(
            f"{missing} of {plan.shard_count} parts are missing: {_some(names, missing)}; run the same command again"
        )
    if foreign:
        shown = _some(sorted(foreign), len(foreign))
        _log.warning("%s holds %d files that are not of this output: %s", FOLDER, len(foreign), shown)


def _some(names: list[str], number: int) -> str:
    more = f" and {number - SHOWN} more" if number > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _read(store: Store, plan: Plan, index: int) -> tuple[Counts, str]:
    name = part_name(plan.plan8, index, plan.shard_count)
    try:
        info = read_report(store, name)
    except FileNotFoundError as error:
        raise WorkerFailed(f"{name} no longer exists; run the same command again") from error
    except ValueError as error:
        raise DamagedPart(name, str(error)) from error
    if info.plan_id != plan.plan_id:
        raise PlanRefused(f"{name} belongs to plan {info.plan_id[:8]}, not {plan.plan8}; choose another output.path")
    return info.counts, sha256_of(store, name)


def _reported(report: ShardReport) -> tuple[Counts, str]:
    counts = Counts(
        report.rows, report.completions, report.prompt_tokens, report.completion_tokens, dict(report.errors),
        dict(report.finish_reasons), dict(report.lengths), report.clamped_rows, report.cut_off, dict(report.sums),
    )  # fmt: skip
    return counts, report.sha256
