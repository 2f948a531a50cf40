"""The manifest, written last: its existence is success, and it says what a complete output consists of.

It does not know how the parts were made, nor what their columns are.
"""

from __future__ import annotations

import collections
import json
import logging
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import __version__
from pipeline.errors import PlanRefused, WorkerFailed
from pipeline.output.part import FOLDER, Counts, part_name, read_report, sha256_of
from pipeline.planning.plan import Plan
from pipeline.store.base import Store
from pipeline.types import ShardReport

MANIFEST = "_job/manifest.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A committed part: its stored name, its input rows, its SHA-256 in hex."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `_job/manifest.json`. Times are in seconds; a rate that has no value is null."""

    plan_id: str
    promptmill_version: str
    totals: Counts
    timings: Mapping[str, float | None]
    parts: tuple[Part, ...]
    environment: Mapping[str, Any]

    def to_json(self) -> bytes:
        """The file's bytes."""
        return (json.dumps(asdict(self), indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read the file's bytes.

        Raises:
            ValueError: If they are not a manifest.
        """
        try:
            body = json.loads(data)
            body["totals"] = Counts(**body["totals"])
            body["parts"] = tuple(Part(**part) for part in body["parts"])
            return cls(**body)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error


def read_manifest(store: Store) -> Manifest | None:
    """Return the manifest, none when there is none yet.

    Raises:
        PlanRefused: If the file is there but is not a manifest.
    """
    try:
        return Manifest.from_json(store.get(MANIFEST))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise PlanRefused(f"{MANIFEST} is not a manifest of promptmill: {error}; choose another output.path") from error


def finish(
    store: Store,
    plan: Plan,
    reports: Mapping[int, ShardReport],
    timings: Mapping[str, float],
    environment: Mapping[str, Any],
) -> Manifest:
    """Check that the output is complete, and put its manifest: `assemble`, then `put_manifest`."""
    return put_manifest(store, assemble(store, plan, reports, timings, environment))


def assemble(
    store: Store,
    plan: Plan,
    reports: Mapping[int, ShardReport],
    timings: Mapping[str, float],
    environment: Mapping[str, Any],
) -> Manifest:
    """Check that the output is complete, and return its manifest, not yet put: the card and the report come before it.

    Args:
        store: The output folder.
        plan: Its plan, as `OutputFolder.claim_plan` returned it.
        reports: Shard → report, of this driver's shards; the other parts are read: footer and SHA-256.
        timings: `wall_seconds`, `engine_seconds`, `tokens_per_second`.
        environment: Versions, processor, dtype, threads.

    Raises:
        WorkerFailed: If parts are missing, cannot be read, or do not hold the rows that were planned.
        PlanRefused: If a part belongs to another plan.
    """
    names = [part_name(plan.plan8, index, plan.shard_count) for index in range(plan.shard_count)]
    _check_listing(store, names)
    # What a shard that was there already has in its file is not what this driver's attempt would have put there.
    known = {index: report for index, report in reports.items() if not report.already_there}
    unknown = [index for index in range(plan.shard_count) if index not in known]
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="finish") as pool:
        read = dict(zip(unknown, pool.map(lambda index: _read(store, plan, names[index]), unknown), strict=True))
    parts, counts = [], []
    for index, name in enumerate(names):
        count, sha256 = read[index] if index in read else _reported(known[index])
        if count.rows != plan.shard(index).rows:
            raise WorkerFailed(f"{name} holds {count.rows} input rows; {plan.shard(index).rows} were planned")
        parts.append(Part(name, count.rows, sha256))
        counts.append(count)
    finite = {key: value if math.isfinite(value) else None for key, value in timings.items()}
    return Manifest(plan.plan_id, __version__, total(counts), finite, tuple(parts), dict(environment))


def put_manifest(store: Store, manifest: Manifest) -> Manifest:
    """Put the manifest, the last file of an output, and return the one that is there then.

    A manifest that lists exactly these parts stays as it is: another driver was quicker. One that lists other bytes
    is replaced: a part was lost after it had been written, and was made again.
    """
    if store.put_if_absent(MANIFEST, manifest.to_json()):
        return manifest
    existing = read_manifest(store)
    if existing is not None and (existing.plan_id, existing.parts) == (manifest.plan_id, manifest.parts):
        return existing
    store.put(MANIFEST, manifest.to_json())
    return manifest


def _check_listing(store: Store, names: list[str]) -> None:
    present = {file.name for file in store.list(FOLDER)}
    missing = [name for name in names if name not in present]
    if missing:
        raise WorkerFailed(
            f"{len(missing)} of {len(names)} parts are missing: {_some(missing)}; run the same command again"
        )
    foreign = sorted(present.difference(names))
    if foreign:
        _log.warning("%s holds %d files that are not of this output: %s", FOLDER, len(foreign), _some(foreign))


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _read(store: Store, plan: Plan, name: str) -> tuple[Counts, str]:
    try:
        info = read_report(store, name)
    except (ValueError, FileNotFoundError) as error:
        raise WorkerFailed(f"{error}; remove it and run the same command again") from error
    if info.plan_id != plan.plan_id:
        raise PlanRefused(f"{name} belongs to plan {info.plan_id[:8]}, not {plan.plan8}; choose another output.path")
    return info.counts, sha256_of(store, name)


def _reported(report: ShardReport) -> tuple[Counts, str]:
    counts = Counts(
        report.rows, report.completions, report.prompt_tokens, report.completion_tokens, dict(report.errors)
    )
    return counts, report.sha256


def total(counts: Iterable[Counts]) -> Counts:
    """Add up what is in several parts."""
    errors: collections.Counter[str] = collections.Counter()
    rows = completions = prompt_tokens = completion_tokens = 0
    for count in counts:
        rows, completions = rows + count.rows, completions + count.completions
        prompt_tokens, completion_tokens = (
            prompt_tokens + count.prompt_tokens,
            completion_tokens + count.completion_tokens,
        )
        errors.update(count.errors)
    return Counts(rows, completions, prompt_tokens, completion_tokens, dict(sorted(errors.items())))
