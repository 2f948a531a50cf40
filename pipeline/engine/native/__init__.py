"""The compiled kernels, where the installation could build them and this processor can run them.

The library is plain C, reached through ctypes: it depends on no version of Python or torch. It shares torch's threads by
using the OpenMP runtime that torch has loaded; with one of its own, both would fight for the cores.
It does not know what the kernels are for: see the modules beside it, one for each C file.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

LIBRARY = Path(__file__).with_name("_native.so")
_TYPES = {"p": c_void_p, "n": c_int64, "i": c_int}
_ASKED = ("processor_level", "multiplies_bytes")
"""Functions that take nothing and return a number."""
_CALLED = {
    "block_attention": "pp", "activate": "ppnnii",
    "pack_float32": "ppnni", "product_float32": "ppnppi", "pack_int8": "ppi", "product_int8": "ppnpppi",
}  # fmt: skip
"""The others, and the types of what they take: pointers, numbers of 64 bits, ints."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or null: not built (no C compiler when promptmill was installed), or not for this processor."""
    if not LIBRARY.exists():
        return None
    try:
        runtime = _openmp()
        if runtime is not None:
            ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None  # built for another system, or a torch without OpenMP
    for name in _ASKED:
        getattr(found, name).restype = c_int
    for name, types in _CALLED.items():
        function = getattr(found, name)
        function.argtypes, function.restype = [_TYPES[t] for t in types], None
    return found if found.processor_level() else None


def needed() -> ctypes.CDLL:
    """The kernels.

    Raises:
        RuntimeError: If they are not there.
    """
    found = library()
    if found is None:
        raise RuntimeError("the compiled kernels are not there")
    return found


def level() -> str:
    """Which build of the kernel runs here, for the manifest: its roundings may differ from another's."""
    found = library()
    return "none" if found is None else {4: "x86-64-v4", 3: "x86-64-v3"}.get(found.processor_level(), "generic")


def _openmp() -> str | None:
    """Path of the OpenMP runtime in this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    files = [line.split(maxsplit=5)[-1] for line in lines if ".so" in line]
    return next((f for f in files if any(n in Path(f).name for n in ("libgomp", "libiomp", "libomp"))), None)
