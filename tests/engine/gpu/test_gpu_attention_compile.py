"""The attention kernels as a compiler makes them for two GPUs: nothing spilled, the cache read in whole vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compile_attention.py"
ROOT = Path(__file__).parents[3]


def _tools() -> bool:
    spec = find_spec("triton")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "backends" / "nvidia" / "bin"
    return all((folder / name).exists() for name in ("ptxas", "cuobjdump"))


@pytest.mark.slow
@pytest.mark.skipif(not _tools(), reason="this Triton came without NVIDIA's tools")
@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_without_spills(architecture: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(SCRIPT), str(architecture)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 36
    for one in found:
        assert one["STACK"] == one["LOCAL"] == 0, one
        if one["kernel"] == "decode_alone" and one["types"][1] != "torch.int8":
            assert one["wide"] >= (16 if one["types"][1] == "torch.bfloat16" else 32), one
