"""Products on a card that is not there: torch says of fake tensors whether an operation takes them, and what comes of it."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.engine.layers.linear import KERNELS

A_CUDA_BUILD = pytest.mark.skipif(
    torch.version.cuda is None, reason="torch without CUDA cannot say it; make test-cuda does"
)


@pytest.mark.parametrize("name", [pytest.param("fixed-rows-256", marks=A_CUDA_BUILD), "logits-256"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_takes_the_calls(name: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():
        weight, bias = torch.empty(100, 48, dtype=dtype, device="cuda"), torch.empty(100, dtype=dtype, device="cuda")
        found = KERNELS[name](weight, bias)(torch.empty(500, 48, dtype=dtype, device="cuda"))
        assert (found.shape, found.device.type) == ((500, 100), "cuda")
        assert found.dtype == (torch.float32 if name.startswith("logits") else dtype)
