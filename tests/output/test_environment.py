"""What an output was made with."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from pipeline import __version__
from pipeline.output import environment as module


def test_versions_and_machine() -> None:
    found = module.environment()
    assert list(found) == ["promptmill", "python", "torch", "transformers", "pyarrow", "ray", "processor", "machine"]
    assert found["promptmill"] == __version__
    assert found["pyarrow"] == version("pyarrow")
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_not_installed_is_null() -> None:
    assert module._version("no-such-package-as-this") is None


def test_the_processor_s_name(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A: 1\nmodel name\t: B\n")
    assert module._processor(path) == "A: 1"
    assert module._processor(tmp_path / "none") != ""
