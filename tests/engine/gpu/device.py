"""Where the kernels' tests keep their tensors, and which of them take too long where kernels are interpreted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def slow_if_interpreted(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test as slow where there is no GPU."""
    return test if DEVICE == "cuda" else pytest.mark.slow(test)
