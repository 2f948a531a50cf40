"""Kernels that are tried on a device: what fails is done without, and a device that is lost is said so, with the option."""

from __future__ import annotations

import pytest
import torch

from pipeline.engine import gpu
from pipeline.engine.gpu import trial
from pipeline.engine.gpu.trial import passes
from pipeline.errors import DeviceFault, ModelRefused

CUDA = torch.device("cuda")


def broken() -> bool:
    raise RuntimeError("CUDA error: misaligned address\nmore")


def answers(monkeypatch: pytest.MonkeyPatch, *told: str | None) -> None:
    """Have the device say so, one after the other, when it is asked whether it works."""
    queue = list(told)
    monkeypatch.setattr(trial, "lost", lambda device: queue.pop(0))


def test_what_fails_is_done_without(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    answers(monkeypatch, None, None, None, None, None, None)
    assert passes("attention", CUDA, lambda: True)
    assert not passes("attention", CUDA, lambda: False)
    assert not passes("attention", CUDA, broken)
    says = "the GPU's kernels for attention are not used, and torch does their work, slower: "
    assert [r.getMessage() for r in caplog.records] == [
        says + "their results are not right here", says + "RuntimeError: CUDA error: misaligned address more",
    ]  # fmt: skip


def test_kernels_that_lose_the_device_are_refused_with_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, None, "AcceleratorError: CUDA error: misaligned address")
    with pytest.raises(ModelRefused, match=r"kernels for attention break the device .* set engine.gpu_kernels=off"):
        passes("attention", CUDA, broken)


def test_a_device_that_was_lost_before_is_not_held_against_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "AcceleratorError: uncorrectable ECC error")
    with pytest.raises(DeviceFault, match=r"the device does not work: .*ECC"):
        passes("attention", CUDA, lambda: True)


def test_the_option_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "works", lambda kind: True)
    monkeypatch.setattr(gpu, "_wanted", True)
    assert gpu.serves(CUDA)
    gpu.use("off")
    assert not gpu.serves(CUDA)
    gpu.use("auto")
    assert gpu.serves(CUDA)
