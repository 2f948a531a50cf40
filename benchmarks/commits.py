"""What share of a job's time goes into its store: claims, commits, events, manifest.

It runs the demo's job, inline, on the disk that it is told.

python -m benchmarks.commits [FOLDER]
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from jobs.generate import main as generate
from pipeline.store.local import LocalStore

METHODS = ("probe", "put_if_absent", "put", "get", "open", "size", "delete", "sweep")


def main() -> None:
    """Run the demo with every call of the store timed, and print one JSON line."""
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    lock = threading.Lock()

    def timed(name: str, method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                with lock:
                    spent[name] += time.perf_counter() - began
                    calls[name] += 1

        return call

    for name in METHODS:
        setattr(LocalStore, name, timed(name, getattr(LocalStore, name)))
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        began = time.perf_counter()
        code = generate(["experiment=demo", "cluster=inline", f"output.path={Path(folder) / 'out'}"])
        wall = time.perf_counter() - began
    print(json.dumps({
        "exit_code": code, "job_seconds": round(wall, 3), "store_seconds": round(sum(spent.values()), 4),
        "share": round(sum(spent.values()) / wall, 5), "calls": dict(calls),
        "seconds": {name: round(seconds, 4) for name, seconds in spent.items()},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
