"""Checks that the ids of the rows are there, are text and differ, in 8 bytes of memory a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.listing import Source
from pipeline.prompts.files.own_ids import OwnIds, own_ids
from pipeline.prompts.files.reader import RowReader
from pipeline.types import ErrorCode, RowError, Segment
from pipeline.wording import brief, one_line

_ROWS_AT_ONCE = 32768
_SHOWN = 5
_FOLLOWED = 100_000  # ids looked at one by one in the second pass


def check_ids(source: Source, config: SourceConfig) -> None:
    """Check the ids of the rows that are used (the first `config.limit`); those of file and row need no check.

    The first pass keeps a 64-bit hash per row. A second pass compares the ids with equal hashes; only a source with
    duplicates needs it (or one by chance, with probability n² / 2⁶⁵).

    Raises:
        InputRefused: If an id is null, is not UTF-8, or cannot be made (with file and row), or ids occur more than once
            (with their number, and the first ones with their places).
        CorruptInput: If a page cannot be decoded.
    """
    ids_of = own_ids(config)
    if ids_of is None:
        return
    total = sum(file.rows for file in source.files)
    rows = total if config.limit is None else min(total, config.limit)
    hashes = np.empty(0, np.int64)  # as long as what was read: a footer may give a number of rows that no memory holds
    at = 0
    for segment, ids in _stream(source, ids_of, rows):
        if at + len(ids) > len(hashes):
            hashes.resize(min(rows, max(at + len(ids), len(hashes) * 2)), refcheck=False)
        hashes[at : at + len(ids)] = _hashes(ids)
        at += len(ids)
        _refuse_unusable(source, ids_of.option, segment, ids)
    hashes.sort()
    again = hashes[1:] == hashes[:-1]
    surplus = int(again.sum())
    if surplus:
        suspects = np.unique(hashes[1:][again])
        del hashes
        _refuse_duplicates(source, ids_of, rows, suspects, surplus)


def _stream(source: Source, ids_of: OwnIds, rows: int) -> Iterator[tuple[Segment, list[Any]]]:
    """Yield the ids of the first `rows` rows, with their places."""
    reader = RowReader(source.filesystem, source.files, ids_of.columns, source.schema)
    try:
        for number, file in enumerate(source.files):
            upto = min(file.rows, rows)
            rows -= upto
            for start in range(0, upto, _ROWS_AT_ONCE):
                segment = Segment(number, start, min(start + _ROWS_AT_ONCE, upto))
                yield segment, ids_of.of(reader.read([segment]))
    finally:
        reader.close()


def _hashes(ids: list[Any]) -> npt.NDArray[np.int64]:
    # `hash` of a str is SipHash under this process's own key: fast, and nobody can aim at collisions.
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _place(source: Source, segment: Segment, index: int) -> str:
    return f"{one_line(source.files[segment.file].name)}:{segment.start + index}"


def _refuse_unusable(source: Source, option: str, segment: Segment, ids: list[Any]) -> None:
    for index, value in enumerate(ids):
        if value is None:
            raise InputRefused(f"{option}: the id at {_place(source, segment, index)} (file:row) is null")
        if isinstance(value, RowError):
            where = _place(source, segment, index)
            why = "is not UTF-8" if value.code is ErrorCode.NOT_UTF8 else "cannot be made"
            raise InputRefused(f"{option}: the id at {where} (file:row) {why}: {value.message}")


@dataclass(slots=True)
class _Seen:
    """An id and the first places where it occurred."""

    count: int = 0
    places: list[str] = field(default_factory=list)


def _refuse_duplicates(
    source: Source, ids_of: OwnIds, rows: int, suspects: npt.NDArray[np.int64], surplus: int
) -> None:
    """Compare the ids whose hash occurs twice; different ids with equal hashes are no duplicates.

    Only `_FOLLOWED` ids are kept; of others only hashes are counted, so that memory stays bounded if nearly all are duplicates.
    """
    seen: dict[Any, _Seen] = {}
    for segment, ids in _stream(source, ids_of, rows):
        hashes = _hashes(ids)
        places = np.minimum(np.searchsorted(suspects, hashes), len(suspects) - 1)
        for index in np.flatnonzero(suspects[places] == hashes).tolist():
            entry = seen.get(ids[index])
            if entry is None:
                if len(seen) >= _FOLLOWED:
                    continue
                entry = seen[ids[index]] = _Seen()
            entry.count += 1
            if len(entry.places) < 3:
                entry.places.append(_place(source, segment, index))
    collisions = len(seen) - len({hash(value) for value in seen})
    repeated = {value: entry for value, entry in seen.items() if entry.count > 1}
    if not repeated:
        return
    first = [
        f"{brief(value)} at {', '.join(entry.places)}{', …' if entry.count > len(entry.places) else ''}"
        for value, entry in list(repeated.items())[:_SHOWN]
    ]
    more = "; …" if len(repeated) > _SHOWN else ""
    number = surplus - collisions
    raise InputRefused(
        f"{ids_of.option}: {number} row{'s have' if number > 1 else ' has'} an id that an earlier row has; "
        f"the first (file:row): {'; '.join(first)}{more}"
    )
