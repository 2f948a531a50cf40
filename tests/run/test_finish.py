"""The exit code of a complete output."""

from __future__ import annotations

import pytest

from pipeline.output.record.counts import Counts
from pipeline.output.record.manifest import Manifest
from pipeline.run.finish import exit_code, too_many_errors
from pipeline.work.config import GenerateConfig


@pytest.mark.parametrize(
    ("errors", "rows", "allowed", "code"),
    [(0, 0, 0.0, 0), (0, 10, 0.0, 0), (1, 10, 0.0, 3), (1, 10, 0.1, 0), (2, 10, 0.1, 3), (10, 10, 1.0, 0)],
)
def test_exit_code(errors: int, rows: int, allowed: float, code: int) -> None:
    totals = Counts(rows, rows, 0, 0, {"NULL_PROMPT": errors} if errors else {})
    manifest = Manifest("0" * 64, "0", totals, {}, (), {})
    assert exit_code(GenerateConfig(max_error_rate=allowed), manifest) == code


def test_why_a_finished_output_ends_with_3() -> None:
    totals = Counts(10, 20, 0, 0, {"TIMEOUT": 1, "NULL_PROMPT": 4})
    manifest = Manifest("0" * 64, "0", totals, {}, (), {})
    assert too_many_errors(GenerateConfig(max_error_rate=0.5), manifest) == ""
    assert too_many_errors(GenerateConfig(max_error_rate=0.1), manifest) == (
        ". Exit code 3: 5 of 20 output rows are errors (4 NULL_PROMPT, 1 TIMEOUT), more than max_error_rate=0.1 allows"
    )
