"""What the system tells of the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import machine as processor_module
from pipeline.machine import processor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512_vnni\n\nprocessor\t: 1\nflags\t: fpu\n",
            ("AuthenticAMD", frozenset({"fpu", "avx512_vnni"})),
        ),
        ("processor\t: 0\nFeatures\t: fp asimd\n", ("", frozenset({"fp", "asimd"}))),
        (None, ("", frozenset())),
    ],
)
def test_what_linux_tells_of_the_processor(
    text: str | None, expected: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor_module, "Path", lambda _: tmp_path / "cpuinfo")
    assert processor.__wrapped__() == expected
