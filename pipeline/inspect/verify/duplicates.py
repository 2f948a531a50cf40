"""Finds duplicate row ids in an output, with 8 bytes of memory per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inspect.output import Output
from pipeline.inspect.verify.findings import Finding, RowFindings
from pipeline.wording import brief

_FOLLOWED = 1000
"""Most suspect ids that are compared individually; with more duplicates, nobody needs a complete list."""


def find_duplicates(output: Output, hashes: Mapping[str, npt.NDArray[np.int64]]) -> Iterator[Finding]:
    """Yield a finding for each part that has a row id of another part, or one id twice.

    Equal hashes are checked by comparing the ids. Only a damaged output, or chance (n² / 2⁶⁵), needs that.

    Args:
        output: The output.
        hashes: Part → the hashes of its ids, made in this process by `hash`.
    """
    every = np.sort(np.concatenate([*hashes.values(), np.empty(0, np.int64)]))
    suspects = np.unique(every[1:][every[1:] == every[:-1]])[:_FOLLOWED]
    del every
    if not len(suspects):
        return
    seen: dict[str, str] = {}
    for name, own in hashes.items():
        findings = RowFindings(name)
        if np.isin(own, suspects).any():
            for row_id in _ids(output, name, set(suspects.tolist())):
                if row_id in seen:
                    other = f"{seen[row_id]} has too" if seen[row_id] != name else "it has twice"
                    findings.add(other, "", f"has row_id {brief(row_id)}, which {other}")
                seen.setdefault(row_id, name)
        yield from findings.all()


def _ids(output: Output, name: str, suspects: set[int]) -> Iterator[str]:
    """Yield the ids of a part's input rows whose hashes are suspect."""
    for rows in output.batches(name, ["row_id", "sample_index"]):
        columns: Any = rows
        pairs = zip(columns.column("row_id").to_pylist(), columns.column("sample_index").to_pylist(), strict=True)
        yield from (row_id for row_id, sample in pairs if sample == 0 and hash(row_id) in suspects)
