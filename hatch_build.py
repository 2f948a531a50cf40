"""Compiles the engine's kernels when promptmill is built or installed; without a C compiler the installation goes on.

The engine then computes with torch's operations, more slowly. OpenMP's runtime is deliberately not linked: the
one that torch has loaded is used.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("pipeline/engine/native")
FLAGS = ["-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"]
OWN_FLAGS = {name: ["-ffp-contract=off"] for name in ("product_int8.c", "product_int8_tiles.c")}
_BF16 = ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"]
LEVELS = {
    "x86_64": {
        "v4-amx": [*_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
        "v4-bf16": _BF16,
        "v4-vnni": ["-march=x86-64-v4", "-mavx512vnni"],
        "v4": ["-march=x86-64-v4"],
        "v3-vnni": ["-march=x86-64-v3", "-mavxvnni"],
        "v3": ["-march=x86-64-v3"],
    },
    "aarch64": {"dotprod": ["-march=armv8.2-a+dotprod"], "generic": []},
}
"""Kind of machine → level of the kernels → how it is compiled; the loader knows the same names."""
OTHER: dict[str, list[str]] = {"generic": []}


class CompileHook(BuildHookInterface[Any]):
    """Puts a library for each kind of processor beside the sources and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, for a wheel and for an editable installation."""
        if self.target_name != "wheel":
            return
        for old in Path(self.root, FOLDER).glob("_native*.so"):
            old.unlink()
        levels = LEVELS.get(platform.machine(), OTHER)
        with ThreadPoolExecutor(os.cpu_count()) as together:
            done = together.map(self._compile, levels, levels.values())
            built = [name for name, is_built in zip(levels, done, strict=True) if is_built]
        if not built:
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"] += [str(FOLDER / _file(name)) for name in built]

    def _compile(self, level: str, own: list[str]) -> bool:
        """Compile for a level, with flags of its own; say so if that cannot be."""
        library = Path(self.root, FOLDER, _file(level))
        sources = sorted((library.parent / "src").glob("*.c"))
        compiler = shlex.split(os.environ.get("CC") or "cc")
        flags = [
            *FLAGS,
            f"-I{library.parent / 'include'}",
            f'-DPROMPTMILL_SOURCES="{digest_of_sources(library.parent)}"',
            *own,
        ]
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder, library.name)
            objects = [str(Path(folder, source.stem + ".o")) for source in sources]
            compiling = [
                [*flags, *OWN_FLAGS.get(source.name, []), "-c", str(source), "-o", made]
                for source, made in zip(sources, objects, strict=True)
            ]
            try:
                for arguments in (*compiling, ["-shared", *objects, "-lm", "-o", str(built)]):
                    subprocess.run([*compiler, *arguments], check=True, capture_output=True, text=True)
                library.write_bytes(built.read_bytes())  # a new file: a running process may have the old one mapped
            except (OSError, subprocess.CalledProcessError) as error:
                why = (getattr(error, "stderr", None) or str(error)).strip().partition("\n")[0]
                self.app.display_warning(
                    f"the kernels of level {level} were not compiled, and a lower level or torch will do their work: {why}"
                )
                library.unlink(missing_ok=True)
                return False
        return True


def digest_of_sources(folder: Path) -> str:
    """Return a digest of the C sources; the loader computes the same one."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("src/*.c"), *folder.glob("include/*.h")], key=lambda file: file.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _file(level: str) -> str:
    return f"_native-{level}.so"
