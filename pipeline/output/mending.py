"""What `verify` found damaged is written down with the output, and set aside by the next `generate`, which makes it again.

It does not know how damage is found. Nothing is deleted: what is set aside lies in `_job/set_aside/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

from pipeline.output.folder import PLAN
from pipeline.output.manifest import MANIFEST
from pipeline.output.part import FOLDER, SET_ASIDE, parse_part_name, sha256_of
from pipeline.planning.plan import Plan
from pipeline.store.base import Store, checked_name

FINDINGS = "_job/findings.json"


def write_down(store: Store, names: Iterable[str]) -> None:
    """Keep which files are damaged, each with its SHA-256, so that no file is set aside that is not the one looked at."""
    files = {}
    for name in names:
        try:
            files[name] = sha256_of(store, name)
        except (OSError, ValueError):
            continue  # it is missing, or has a name that no store gives: nothing to set aside
    if files:
        store.put(FINDINGS, (json.dumps({"files": files}, indent=2) + "\n").encode())


def mend(store: Store, plan: Plan) -> Iterator[str]:
    """Set aside what is damaged, so that it is missing, and yield a line for each file.

    In a folder that holds another plan than `plan` nothing is touched: it will be refused. Of a list that names anything
    but this plan's parts, plan and manifest only these are taken.
    """
    try:
        listed = json.loads(store.get(FINDINGS))["files"]
        files = {name: str(digest) for name, digest in listed.items() if can_be_set_aside(name, plan.plan8)}
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        files = {}  # not a list of ours: what is damaged will be found again
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
    """Whether a folder is this plan's, by its plan or, where that is what is damaged, by the names of its parts."""
    try:
        return Plan.from_json(store.get(PLAN)).plan_id == plan.plan_id
    except (FileNotFoundError, ValueError, AttributeError):
        parts = (parse_part_name(file.name) for file in store.list(FOLDER))
        return all(part is None or part.plan8 == plan.plan8 for part in parts)


def can_be_set_aside(name: str, plan8: str) -> bool:
    """Whether a file has a name under which only this plan's own files were written: nobody else's are moved."""
    try:
        part = parse_part_name(checked_name(name))
        return name in (PLAN, MANIFEST) or (part is not None and part.plan8 == plan8)
    except (ValueError, TypeError, AttributeError):
        return False
