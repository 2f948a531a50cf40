"""How long a model takes to load, ready to run, beside reading its weights' file: one JSON line.

    python -m benchmarks.loading MODEL [--quantization int8] [--rounds 2]

MODEL is a folder with one `model.safetensors`. Each round reads the file into new memory, then loads the model. Before the
first round the file is read once, so that it is in the page cache as far as memory allows; `first_read` is the time of that.
The imports are left out, and so are the checks of kernels, whose verdicts are kept in the user's cache after the first run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks.parts.machine import describe
from pipeline.engine.config import ModelConfig
from pipeline.engine.libraries import import_libraries
from pipeline.engine.model.files.checkpoint import resolve

PIECE = 64 << 20
"""Bytes that are read at a time."""


def reading(file: Path) -> float:
    """Return the seconds that it takes to read a file into new memory."""
    began, read = time.perf_counter(), 0
    memory = memoryview(bytearray(file.stat().st_size))
    with file.open("rb", buffering=0) as opened:
        while count := opened.readinto(memory[read : read + PIECE]):
            read += count
    return round(time.perf_counter() - began, 2)


def loading(config: ModelConfig) -> float:
    """Return the seconds that it takes to load a model."""
    from pipeline.engine.model.load import load_model  # late: it brings in torch

    began = time.perf_counter()
    load_model(resolve(config), config)
    return round(time.perf_counter() - began, 2)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--quantization", choices=("none", "int8"), default="none")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(arguments)
    file = options.model / "model.safetensors"
    if not file.is_file():
        raise SystemExit(f"{options.model}: holds no model.safetensors")
    import_libraries()
    config = ModelConfig(path=str(options.model), dtype="float32", quantization=options.quantization)
    first = reading(file)
    seconds = [(reading(file), loading(config)) for _ in range(options.rounds)]
    print(json.dumps({
        "model": options.model.name, "bytes": file.stat().st_size, "quantization": options.quantization, "first_read": first,
        "read": [r for r, _ in seconds], "load": [found for _, found in seconds], "machine": describe(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
