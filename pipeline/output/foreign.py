"""Finds files in a folder that promptmill did not write: with such files and no plan, the folder is refused as an output."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from pipeline.errors import PlanRefused
from pipeline.output.card.card import CARD
from pipeline.output.card.seal import holds_sealed
from pipeline.output.folder import REPORT
from pipeline.output.part import FOLDER, parse_part_name
from pipeline.store.base import Entry, Kind, Store

JOB = "_job/"
_OURS = {
    **dict.fromkeys(
        ("plan.json", "prediction.json", "manifest.json", "config.yaml", "findings.json", "README.md", REPORT),
        Kind.FILE,
    ),
    **dict.fromkeys(("claims", "drivers", "events", "inputs", "probe", "set_aside", "suspects", "tmp"), Kind.FOLDER),
}
"""The names that may be in `_job/`."""
_OF_THE_DISK = "lost+found"
"""A folder that file systems have at their root; it is ignored."""
_SHOWN = 5


def check_vacant(store: Store, path: str) -> None:
    """Refuse a folder without a plan that holds files of anybody else; parts of an output whose plan was lost may stay.

    Args:
        store: The folder.
        path: The path as the user wrote it, for the message.

    Raises:
        PlanRefused: If there are files that promptmill did not write; the message names them.
    """
    if _has_plan(store):
        return
    found = list(itertools.islice(foreign(store), _SHOWN + 1))
    if found and not _has_plan(store):  # checked again: another driver may have begun
        more = " and more" if len(found) > _SHOWN else ""
        raise PlanRefused(
            f"output.path={path}: is not empty and holds no output of promptmill: {', '.join(sorted(found[:_SHOWN]))}{more}; "
            "nothing was touched; choose a new folder"
        )


def foreign(store: Store) -> Iterator[str]:
    """Yield the names that do not belong to an output; for a foreign folder only its own name."""
    for entry in store.entries():
        if entry == Entry(JOB.rstrip("/"), Kind.FOLDER):
            yield from (e.name for e in store.entries(JOB) if _OURS.get(e.name.removeprefix(JOB)) != e.kind)
        elif entry == Entry(FOLDER.rstrip("/"), Kind.FOLDER):
            yield from (e.name for e in store.entries(FOLDER) if parse_part_name(e.name) is None)
        elif entry.name != _OF_THE_DISK and not (
            entry.kind is Kind.FILE and entry.name in (CARD, REPORT) and holds_sealed(store, entry.name)
        ):
            yield entry.name + "/" * (entry.kind is Kind.FOLDER)


def _has_plan(store: Store) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return store.size(f"{JOB}plan.json") >= 0
    return False
