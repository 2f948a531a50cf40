"""Tests of the GPU's kernels run on a GPU, or else in Triton's interpreter on CPU tensors; without Triton, not at all."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
