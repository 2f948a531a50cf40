"""What an output was made with."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline import __version__, machine
from pipeline.output.record import environment as module


def test_versions_and_machine() -> None:
    found = module.environment()
    assert list(found) == [
        "promptmill", "python", "torch", "transformers", "pyarrow", "ray",
        "processor", "processor_class", "instruction_sets", "machine",
    ]  # fmt: skip
    assert found["promptmill"] == __version__
    assert found["pyarrow"] == version("pyarrow")
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_not_installed_is_null() -> None:
    assert module._version("no-such-package-as-this") is None


X86 = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: A: 1\n"
    "flags\t\t: fpu sse2 fma avx2 avx512f rdpid avx\n\nprocessor\t: 1\nmodel name\t: B\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd sve i8mm\nCPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: 0xd40\n"


def test_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(text: str | None) -> list[str | None]:
        path = tmp_path / "cpuinfo"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(machine, "_CPUINFO", path)
        found = module.environment()
        return [found[key] for key in ("processor", "processor_class", "instruction_sets")]

    monkeypatch.setattr(platform, "processor", lambda: "")
    assert told(X86) == ["A: 1", "AuthenticAMD/25/17", "avx avx2 avx512f fma"]
    assert told(ARM) == [None, "0x41/0xd40/0x1", "asimd i8mm sve"]
    assert told("processor\t: 0\n") == told("") == told(None) == [None, None, None]


def test_what_the_bits_rest_on() -> None:
    facts = {"torch": "2", "dtype": "float32", "pid": 1, "threads": 2, "kv_blocks": 64, "new": "fact"}
    assert module.identity(facts) == {"torch": "2", "dtype": "float32", "new": "fact"}
    assert module.identity({**facts, "linear_kernels": {"mkl": 3}}).keys() == {
        "torch",
        "dtype",
        "new",
        "linear_kernels",
    }
    assert module.identity({**facts, "linear_kernels": {"fixed-rows": 3}})["threads"] == 2
