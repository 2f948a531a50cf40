"""Stores the reports of a run's parts in 93 bytes each, until the driver makes the manifest."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from pipeline.output.part import part_name
from pipeline.planning.plan import Plan
from pipeline.types import FinishReason, ShardReport

_RECORD = struct.Struct("<?4q32s7I")
"""Whether there is a report; rows, completions, prompt tokens, completion tokens; SHA-256; reasons, lengths, clamped rows."""
_REASONS = tuple(FinishReason)


class Reports(Mapping[int, ShardReport]):
    """Shard → report, for the shards of one plan.

    Rare facts are stored separately: errors, sums of scores, and that a part was already there.
    """

    def __init__(self, plan: Plan) -> None:
        """Start without any."""
        self._plan8, self._shards = plan.plan8, plan.shard_count
        self._records = bytearray(self._shards * _RECORD.size)
        self._errors: dict[int, dict[str, int]] = {}
        self._already_there: set[int] = set()
        self._sums: dict[int, Mapping[str, float]] = {}
        self._number = 0

    def add(self, report: ShardReport) -> None:
        """Store a report; it replaces an earlier one of the same shard."""
        index = report.shard
        self._number += index not in self
        _RECORD.pack_into(
            self._records, index * _RECORD.size, True, report.rows, report.completions, report.prompt_tokens,
            report.completion_tokens, bytes.fromhex(report.sha256),
            *(report.finish_reasons.get(reason, 0) for reason in _REASONS),
            report.lengths.get("shortest", 0), report.lengths.get("longest", 0), report.clamped_rows, report.cut_off,
        )  # fmt: skip
        self._errors.pop(index, None)
        if report.errors:
            self._errors[index] = dict(report.errors)
        self._sums.pop(index, None)
        if report.sums:
            self._sums[index] = report.sums
        self._already_there.discard(index)
        if report.already_there:
            self._already_there.add(index)

    def __getitem__(self, index: int) -> ShardReport:
        """Return a shard's report."""
        if index not in self:
            raise KeyError(index)
        _, rows, completions, prompts, generated, sha256, *more = _RECORD.unpack_from(
            self._records, index * _RECORD.size
        )
        reasons = {str(reason): n for reason, n in sorted(zip(_REASONS, more[:3], strict=True)) if n}
        without_error = sum(n for reason, n in reasons.items() if reason != FinishReason.ERROR)
        lengths = {"shortest": more[3], "longest": more[4]} if without_error else {}
        return ShardReport(
            index, part_name(self._plan8, index, self._shards), rows, completions, prompts, generated,
            self._errors.get(index, {}), sha256.hex(), already_there=index in self._already_there, finish_reasons=reasons,
            lengths=lengths, clamped_rows=more[5], cut_off=more[6], sums=self._sums.get(index, {}),
        )  # fmt: skip

    def __contains__(self, index: object) -> bool:
        """Whether there is a report of a shard."""
        return isinstance(index, int) and 0 <= index < self._shards and bool(self._records[index * _RECORD.size])

    def __iter__(self) -> Iterator[int]:
        """Yield the shards with reports, in order."""
        return (index for index in range(self._shards) if index in self)

    def __len__(self) -> int:
        """Number of reports."""
        return self._number
