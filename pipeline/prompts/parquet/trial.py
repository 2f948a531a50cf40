"""Decodes a file in a separate process, to see whether that ends the process, as a fault in C++ does."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence

import pyarrow.fs
import pyarrow.parquet as pq

from pipeline.prompts.parquet.footer import READING, open_file, read_footer

COMMAND = (sys.executable, "-m", "pipeline.prompts.parquet.trial")


def deadly_signal(
    filesystem: pyarrow.fs.FileSystem, path: str, columns: Sequence[str], command: Sequence[str] = COMMAND
) -> str | None:
    """Decode `columns` of a file in another process; return the name of the signal that ended it, or None.

    An error of the decoder does not count here; it is raised when the file is read.
    """
    done = subprocess.run(
        command,
        input=pickle.dumps((filesystem, path, list(columns))),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        check=False,
    )
    return signal.Signals(-done.returncode).name if done.returncode < 0 else None


def _decode(filesystem: pyarrow.fs.FileSystem, path: str, columns: Sequence[str]) -> None:
    with open_file(filesystem, path, path) as handle:
        footer = read_footer(handle, path, columns)
        parquet = pq.ParquetFile(handle, metadata=footer.metadata, pre_buffer=False, **READING)
        for group in range(parquet.num_row_groups):
            for _ in parquet.iter_batches(64, row_groups=[group], columns=list(columns), use_threads=False):
                pass


if __name__ == "__main__":
    _decode(*pickle.load(sys.stdin.buffer))
