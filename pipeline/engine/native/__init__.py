"""The compiled kernels, where the installation could build them and this processor can run them.

The library is plain C, reached through ctypes: it depends on no version of Python or torch. It shares torch's threads by
using the OpenMP runtime that torch has loaded; with one of its own, both would fight for the cores.
It does not know what the kernels are for: see the modules beside it, one for each C file.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import platform
import re
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import torch

from pipeline.engine.processor import processor

X86 = platform.machine() in ("x86_64", "AMD64")
SOURCES = FOLDER = Path(__file__).parent
_V3 = frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
LEVELS = {"x86-64-v4": _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "x86-64-v3": _V3}
"""What x86-64 is divided into, the best first: name → flags of the processor. There is a library for each of them, as
`hatch_build.py` knows, too."""
OTHER = "generic"
"""The only library on other processors."""
_TYPES = {"p": c_void_p, "n": c_int64, "i": c_int}
_FUNCTIONS = {
    "block_attention": "pp", "activate": "ppnnii",
    "pack_float32": "ppnni", "product_float32": "ppnppi", "pack_int8": "ppi", "product_int8": "ppnpppi",
    "choose_tokens": "pnnppppni", "measure_tokens": "pnnppi",
}  # fmt: skip
"""The types of what they take: pointers, numbers of 64 bits, ints."""
_OPTIONAL = {"pack_int8", "product_int8"}
"""Those that some processors have no instructions for."""
logger = logging.getLogger(__name__)


def level() -> str:
    """Which build of the kernels is for this processor, for the manifest: `none` where it is not there."""
    return _found()[0]


def library() -> ctypes.CDLL | None:
    """The kernels, or null: not built (no C compiler when promptmill was installed), or not for this processor."""
    return _found()[1]


@functools.cache
def _found() -> tuple[str, ctypes.CDLL | None]:
    for name in [n for n, flags in LEVELS.items() if flags <= processor()[1]] if X86 else [OTHER]:
        file = FOLDER / f"_native-{name}.so"
        if not file.exists():
            continue
        try:
            runtime = _openmp()
            if runtime is not None:
                ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
            found = ctypes.CDLL(str(file))
            found.built_from.restype = ctypes.c_char_p
            if found.built_from() != digest_of_sources().encode():
                raise OSError("it was built from other sources; install promptmill again")
            for function, types in _FUNCTIONS.items():
                if function not in _OPTIONAL or hasattr(found, function):
                    getattr(found, function).argtypes = [_TYPES[t] for t in types]
                    getattr(found, function).restype = None
        except (OSError, AttributeError) as error:
            logger.warning("%s is not used, and torch does its work: %s", file.name, error)
            continue
        return name, found
    return "none", None


def digest_of_sources() -> str:
    """What names the C sources by their content, as `hatch_build.py` gives it to the compiler."""
    digest = hashlib.sha256()
    for file in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def serves(tensor: torch.Tensor) -> bool:
    """Whether the kernels are there for a tensor: it is on a processor."""
    return tensor.device.type == "cpu" and library() is not None


def needed() -> ctypes.CDLL:
    """The kernels.

    Raises:
        RuntimeError: If they are not there.
    """
    found = library()
    if found is None:
        raise RuntimeError("the compiled kernels are not there")
    return found


def _openmp() -> str | None:
    """Path of the OpenMP runtime in this process: torch's own, if there are several."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    files = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if ".so" in line)
    runtimes = [f for f in files if re.match(r"lib(gomp|iomp5|omp)[.-]", Path(f).name)]
    return min(runtimes, key=lambda f: "/torch" not in f, default=None)
