"""Compiles the engine's kernels when promptmill is built or installed; without a C compiler the installation goes on.

The engine then computes with torch's operations, more slowly. OpenMP's runtime is deliberately not linked: the
one that torch has loaded is used.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("pipeline/engine/native")
FLAGS = ["-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


class CompileHook(BuildHookInterface[Any]):
    """Puts `_native.so` beside its sources and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, for a wheel and for an editable installation."""
        if self.target_name != "wheel":
            return
        library = Path(self.root, FOLDER, "_native.so")
        sources = sorted(map(str, library.parent.glob("*.c")))
        compiler = shlex.split(os.environ.get("CC") or "cc")
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder, library.name)
            objects = [str(Path(folder, Path(source).stem + ".o")) for source in sources]
            compiling = [[*FLAGS, "-c", source, "-o", made] for source, made in zip(sources, objects, strict=True)]
            try:
                for arguments in (*compiling, ["-shared", *objects, "-o", str(built)]):
                    subprocess.run([*compiler, *arguments], check=True, capture_output=True, text=True)
                # a new file, not a rewritten one: a running process may have the old one mapped
                fresh = library.with_suffix(".new")
                fresh.write_bytes(built.read_bytes())
                fresh.replace(library)
            except (OSError, subprocess.CalledProcessError) as error:
                why = (getattr(error, "stderr", None) or str(error)).strip().partition("\n")[0]
                self.app.display_warning(f"the kernels were not compiled, and torch will do their work: {why}")
                library.unlink(missing_ok=True)
                return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"].append(str(FOLDER / library.name))
