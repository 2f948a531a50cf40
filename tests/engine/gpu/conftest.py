"""Tests of the GPU's kernels run on a GPU, or else in Triton's interpreter on CPU tensors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("triton")
