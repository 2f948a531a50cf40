"""The command that times loading runs on a small model, and refuses a folder without one in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.loading import main
from tests.small_runs import MODEL


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_it_prints_the_seconds_of_every_round(quantization: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(MODEL), "--quantization", quantization, "--rounds", "2"])
    line = json.loads(capsys.readouterr().out)
    assert line["bytes"] == (MODEL / "model.safetensors").stat().st_size
    assert (line["quantization"], len(line["read"]), len(line["load"])) == (quantization, 2, 2)
    assert all(seconds >= 0 for seconds in (line["first_read"], *line["read"], *line["load"]))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"holds no model\.safetensors"):
        main([str(tmp_path)])
