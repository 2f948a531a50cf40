"""Tests of the GPU's kernels run on a GPU, or else in Triton's interpreter on CPU tensors; without Triton, not at all."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
