"""Checks that the rows of a part are the planned ones: each input row's samples from 0 on, one row after the other."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.wording import brief


class RowOrder:
    """Follows the rows of one part.

    Args:
        samples: Output rows per input row; None: they may differ.
        row_ids: The expected ids, in order; None: any, and `hashes` serves to find duplicates.
    """

    def __init__(self, samples: int | None, row_ids: Iterator[str] | None) -> None:
        """Start before the first row."""
        self._samples, self._due = samples, row_ids
        self._row: str | None = None
        self._sample = -1
        self._hashes = array("q")
        self.input_rows = 0

    def take(self, row_ids: Sequence[str | None], samples: Sequence[int | None]) -> Iterator[tuple[int, str]]:
        """Check the next rows, and yield (index among them, what is wrong) for each row that is out of place."""
        for place, (row_id, sample) in enumerate(zip(row_ids, samples, strict=True)):
            if row_id is None or sample is None:
                yield place, "row_id or sample_index is null"
                continue
            if wrong := self._next(row_id, sample):
                yield place, wrong
            self._row, self._sample = row_id, sample

    def end(self) -> str | None:
        """Return what is missing after the last row, or None."""
        if not self._may_begin:
            return f"ends after sample {self._sample} of {brief(self._row)}, which has {self._samples}"
        missing = next(self._due, None) if self._due is not None else None
        return None if missing is None else f"ends before row {brief(missing)}"

    @property
    def hashes(self) -> npt.NDArray[np.int64]:
        """Return a 64-bit hash per id, stable within this process; empty if the ids were checked against the plan."""
        return np.array(self._hashes, np.int64)

    @property
    def _may_begin(self) -> bool:
        """Whether another input row may begin here."""
        return self._row is None or self._samples is None or self._sample + 1 == self._samples

    def _next(self, row_id: str, sample: int) -> str | None:
        after = f"comes after sample {self._sample} of {brief(self._row)}" if self._row is not None else "comes first"
        if sample != 0:
            goes_on = row_id == self._row and sample == self._sample + 1 and sample != self._samples
            return None if goes_on else after
        wrong = None if self._may_begin else after
        self.input_rows += 1
        if self._due is None:
            self._hashes.append(hash(row_id))
        elif (due := next(self._due, None)) != row_id:
            wrong = wrong or ("is one more than planned" if due is None else f"is there where {brief(due)} is due")
        return wrong
