"""Loads the compiled kernels, if the installation could build them and this CPU can run them.

The library is plain C, reached through ctypes: it depends on no version of Python or torch. It shares torch's threads,
because it uses the OpenMP runtime that torch has loaded; with a second runtime, both would compete for the cores.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import torch

from pipeline.errors import ModelRefused
from pipeline.machine import processor

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "src"
INCLUDE = FOLDER / "include"
_V3 = frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {
        "v4-amx": _V4 | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
        "v4-bf16": _V4 | {"avx512_vnni", "avx512_bf16"},
        "v4-vnni": _V4 | {"avx512_vnni"},
        "v4": _V4,
        "v3-vnni": _V3 | {"avx_vnni"},
        "v3": _V3,
    },
    "aarch64": {"dotprod": frozenset({"asimddp"}), "generic": frozenset()},
}
"""Kind of machine → level of the kernels → flags of the processor that it needs; the best first. There is a library for each
level, as `hatch_build.py` knows, too. v3 and v4 are those of x86-64: AVX2 with FMA, and AVX-512. AMX's tiles need the system's
leave, too, for which a library asks when it is loaded."""
_OTHER: dict[str, frozenset[str]] = {"generic": frozenset()}
"""The only level on other machines."""
_TYPES = {"p": c_void_p, "n": c_int64, "i": c_int}
_FUNCTIONS = {
    "block_attention": "pp", "activate": "ppnnii",
    "pack_float32": "ppnni", "product_float32": "ppnppi", "pack_int8": "ppnni", "product_int8": "ppnppppi",
    "choose_tokens": "pnnppppni", "measure_tokens": "pnnppi",
}  # fmt: skip
"""Argument types of the functions: pointers, 64-bit integers, ints."""
_BFLOAT16 = {"pack_bfloat16": "ppnni", "product_bfloat16": "ppnpppi"}
"""The same for functions of levels with bfloat16 instructions only."""
logger = logging.getLogger(__name__)
_wanted = "auto"


def use(kernels: str) -> None:
    """Choose the kernels of models that this process loads from now on.

    Args:
        kernels: As `engine.kernels`. `auto` is the best level that the processor has, `none` is torch's operations,
            `native-v3` and so on are a level.

    Raises:
        ModelRefused: If this CPU does not support the level, or its library was not built.
    """
    global _wanted
    if kernels == _wanted:
        return
    previous, _wanted = _wanted, kernels
    _found.cache_clear()
    if kernels in ("auto", "none") or _found()[1] is not None:
        return
    name, _wanted = kernels.removeprefix("native-"), previous
    _found.cache_clear()
    there = ", ".join(["auto", "none", *(f"native-{n}" for n in levels() if _file(n).exists())])
    lacking = sorted(_levels()[name] - processor()[1]) if name in _levels() else []
    why = (
        f"this processor has no {', '.join(lacking)}" if lacking
        else "its library cannot be used, as a warning says" if name in _levels() and _file(name).exists()
        else "it was not compiled when promptmill was installed" if name in _levels()
        else f"there is no such level on {platform.machine()}"
    )  # fmt: skip
    raise ModelRefused(f"engine.kernels={kernels}: {why}; here it can be {there}")


def levels() -> list[str]:
    """Return the levels that this CPU supports, best first, whether or not they were built."""
    return [name for name, flags in _levels().items() if flags <= processor()[1]]


def built() -> list[str]:
    """The levels that this processor can run and that were built when promptmill was installed, the best first."""
    return [name for name in levels() if _file(name).exists()]


def level() -> str:
    """Return the level of the kernels in use, for the manifest; `none` if none is."""
    return _found()[0]


def library() -> ctypes.CDLL | None:
    """Return the kernels; None if they are turned off, were not built (no C compiler), or do not support this CPU."""
    return _found()[1]


@functools.cache
def _found() -> tuple[str, ctypes.CDLL | None]:
    for name in levels():
        if _wanted not in ("auto", f"native-{name}") or not _file(name).exists():
            continue
        try:
            return name, _loaded(_file(name))
        except (OSError, AttributeError) as error:
            logger.warning("%s is not used: %s", _file(name).name, error)
    return "none", None


def _loaded(file: Path) -> ctypes.CDLL:
    runtime = _openmp()
    if runtime is not None:
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
    found = ctypes.CDLL(str(file))
    found.built_from.restype = ctypes.c_char_p
    if found.built_from() != digest_of_sources().encode():
        raise OSError("it was built from other sources; install promptmill again")
    if found.prepare():
        raise OSError("the system does not let this process use the tiles of AMX")
    own = {name: types for name, types in _BFLOAT16.items() if hasattr(found, name)}
    for function, types in (_FUNCTIONS | own).items():
        getattr(found, function).argtypes = [_TYPES[t] for t in types]
        getattr(found, function).restype = None
    return found


def multiplies_bfloat16() -> bool:
    """Whether the kernels in use have a bfloat16 product that uses the CPU's instructions for it."""
    return hasattr(library(), "product_bfloat16")


def _levels() -> dict[str, frozenset[str]]:
    return LEVELS.get(platform.machine(), _OTHER)


def _file(name: str) -> Path:
    return FOLDER / f"_native-{name}.so"


def digest_of_sources() -> str:
    """Return the digest of the C sources that `hatch_build.py` compiles into a library."""
    digest = hashlib.sha256()
    for file in sorted([*SOURCES.glob("*.c"), *INCLUDE.glob("*.h")], key=lambda file: file.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def serves(tensor: torch.Tensor) -> bool:
    """Whether the kernels can serve a tensor: it is on the CPU."""
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
    """Return the path of this process's OpenMP runtime: torch's own, if there are several."""
    try:
        lines = os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines()  # a file's name need not be UTF-8
    except OSError:
        return None
    files = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if ".so" in line)
    runtimes = [f for f in files if re.match(r"lib(gomp|iomp5|omp)[.-]", Path(f).name)]
    return min(runtimes, key=lambda f: "/torch" not in f, default=None)
