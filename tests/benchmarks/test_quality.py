"""The measurement of quality: windows, perplexities, and the whole of it on the embedded model."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality

DEMO = Path(__file__).parents[2] / "examples" / "demo-model"


def test_windows_hold_every_token_but_a_lone_last_one() -> None:
    assert quality.cut([1, 2, 3, 4, 5, 6, 7], 3) == [[1, 2, 3], [4, 5, 6]]
    assert quality.cut([1, 2, 3, 4, 5], 3) == [[1, 2, 3], [4, 5]]
    assert quality.cut([], 3) == []


def test_perplexity_of_equal_chances_is_their_number() -> None:
    assert quality.perplexity(np.full(10, -math.log(7), np.float32)) == pytest.approx(7, rel=1e-6)
    exact, found = np.array([-1.0, -2.0]), np.array([-1.1, -2.1])
    _, _, ppl, change, apart, kernels, _ = (part.strip() for part in quality.row("x", found, exact, "k").split("|"))
    assert float(ppl) == pytest.approx(math.exp(1.6), abs=1e-4)
    assert change == f"{100 * (math.exp(0.1) - 1):+.3f} % ± 0.000 %"
    assert (apart, kernels) == ("1.0e-01", "k")


def test_float32_of_the_embedded_model_is_that_of_float64(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a small house by the river. " * 20)
    words = [
        "--model",
        str(DEMO),
        "--text",
        str(text),
        "--tokens",
        "200",
        "--window",
        "64",
        "--only",
        "float32",
        "int8",
    ]
    monkeypatch.setattr(sys, "argv", ["quality", *words])
    quality.main()
    lines = [
        line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith(("| float32", "| int8"))
    ]
    assert [line[1].strip() for line in lines] == ["float32", "int8"]
    assert float(lines[0][4]) < 1e-5 < float(lines[1][4])
