"""Checks, while the image is built, that the torch that pip chose is the build that was wanted.

It does not import torch, whose dependencies are not there yet.
"""

from __future__ import annotations

import runpy
import sys
from importlib.metadata import distribution

wanted = sys.argv[1]
cuda = runpy.run_path(str(distribution("torch").locate_file("torch/version.py")))["cuda"]
found = "cuda" if cuda else "cpu"
if found != wanted:
    sys.exit(
        f"pip chose a {found} build of torch, and TORCH_BUILD={wanted} was wanted: give the address of an index that has it "
        f"as --build-arg TORCH_INDEX=ADDRESS, or take this one with --build-arg TORCH_BUILD={found}"
    )
