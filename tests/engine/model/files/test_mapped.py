from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.engine import native
from pipeline.engine.model.files.mapped import forget, mapped_ranges


def resident() -> int:
    """Bytes of files that are mapped in."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


def test_a_file_leaves_memory_and_reads_as_before(tmp_path: Path) -> None:
    made = torch.randn(4000, 1000)
    save_file({"w": made}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        weight = file.get_tensor("w")
        ranges = mapped_ranges()
        assert any(low <= weight.data_ptr() < high for low, high in ranges)
        assert torch.equal(weight, made)
        before = resident()
        forget(weight, ranges)
        assert before - resident() > 0.9 * made.nbytes
        assert torch.equal(weight, made)


def test_a_file_whose_name_is_not_utf8_is_mapped_too(tmp_path: Path) -> None:
    made = torch.randn(400, 100)
    place = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    save_file({"w": made}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").rename(place)
    with place.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        assert any(low <= address < high for low, high in mapped_ranges())
        assert native._openmp() is None or Path(str(native._openmp())).is_file()


def test_memory_that_is_no_files_is_left_alone() -> None:
    weight = torch.randn(3000, 1000)
    kept = weight.clone()
    forget(weight, mapped_ranges())
    assert torch.equal(weight, kept)


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert mapped_ranges(tmp_path / "maps") == []
