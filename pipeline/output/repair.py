"""Records the damaged files that `verify` finds; the next `generate` sets them aside and makes them again.

Nothing is deleted: files set aside are in `_job/set_aside/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.output.folder import PLAN
from pipeline.output.part import FOLDER, SET_ASIDE, parse_part_name, sha256_of
from pipeline.output.record.manifest import MANIFEST
from pipeline.planning.plan import Plan
from pipeline.store.base import Store, checked_name
from pipeline.store.door import fetch, parse

FINDINGS = "_job/findings.json"


MOST_BYTES = 1 << 28
"""Most bytes of the findings: enough for a million parts."""


@dataclass(frozen=True)
class _Findings:
    """The form of `_job/findings.json`: stored name → SHA-256."""

    files: Mapping[str, str]


def write_down(store: Store, names: Iterable[str]) -> None:
    """Record damaged files with their SHA-256, so that a file which changed since is not set aside."""
    files = {}
    for name in names:
        try:
            files[name] = sha256_of(store, name)
        except (OSError, ValueError):
            continue  # missing, or not a valid stored name: nothing to set aside
    if files:
        store.put(FINDINGS, (json.dumps({"files": files}, indent=2) + "\n").encode())


def repair(store: Store, plan: Plan) -> Iterator[str]:
    """Set damaged files aside, so that they are missing, and yield one line per file.

    A folder with another plan than `plan` is not touched: it will be refused. Only this plan's parts, plan and manifest are
    ever set aside, whatever else the list names.
    """
    try:
        listed = parse(fetch(store, FINDINGS, MOST_BYTES), _Findings).files
        files = {name: digest for name, digest in listed.items() if can_be_set_aside(name, plan.plan8)}
    except FileNotFoundError:
        return
    except ValueError:
        files = {}  # not our list: `verify` will find the damage again
    if not _holds(store, plan):
        return
    for name, digest in files.items():
        try:
            data = store.get(name)
        except FileNotFoundError:
            continue
        if hashlib.sha256(data).hexdigest() == digest:
            aside = f"{SET_ASIDE}{digest[:8]}/{name}"
            store.put(aside, data)
            store.delete(name)
            yield f"{name}: was found damaged by verify; it is set aside as {aside}"
    store.delete(FINDINGS)


def _holds(store: Store, plan: Plan) -> bool:
    """Whether a folder holds this plan, judged by its plan or, if that is damaged, by the names of its parts."""
    try:
        return Plan.from_json(fetch(store, PLAN)).plan_id == plan.plan_id
    except (FileNotFoundError, ValueError):
        parts = (parse_part_name(file.name) for file in store.list(FOLDER))
        return all(part is None or part.plan8 == plan.plan8 for part in parts)


def can_be_set_aside(name: str, plan8: str) -> bool:
    """Whether a file's name is one that only this plan uses; files of anybody else are not moved."""
    try:
        part = parse_part_name(checked_name(name))
        return name in (PLAN, MANIFEST) or (part is not None and part.plan8 == plan8)
    except (ValueError, TypeError, AttributeError):
        return False
