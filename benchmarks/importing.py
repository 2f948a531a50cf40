"""How fast `promptmill import` is, and how much memory it takes: one JSON line.

    python -m benchmarks.importing [MEGABYTES] [FOLDER]

A file of conversations is made up, with nested fields, text outside ASCII, escapes and dates: that many megabytes of JSON Lines
(1000 unless given). The import runs as a process of its own, from its start to its end, Parquet written. The bytes are those of
the JSON Lines.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEGABYTES = 1000
_LETTERS = "etaoinshrdlucmfwypvbgkqjxz"


def records(seed: int = 1) -> Iterator[dict[str, Any]]:
    """Yield conversations without end."""
    chance = random.Random(seed)
    words = ["".join(chance.choices(_LETTERS, k=chance.randint(2, 10))) for _ in range(20_000)]
    texts = [" ".join(chance.choices(words, k=chance.randint(5, 200))) for _ in range(20_000)]
    number = 0
    while True:
        turns = ("user", "assistant", "user")[: chance.choice((1, 3))]
        said = [{"role": role, "content": f"{chance.choice(texts)} “é{number}”"} for role in turns]
        yield {
            "id": number,
            "topic": chance.choice(words),
            "created": f"2026-01-{number % 28 + 1:02}",
            "score": chance.random(),
            "messages": [{"role": "system", "content": chance.choice(texts)}, *said],
            "meta": {"lang": "en", "tags": [chance.choice(words)], "n": number % 7 if number % 3 else None},
        }
        number += 1


def write(path: Path, size: int) -> int:
    """Write JSON Lines of at least `size` bytes, every second line in ASCII with escapes; return how many lines."""
    with path.open("wb") as file:
        for number, record in enumerate(records(), start=1):
            file.write(json.dumps(record, ensure_ascii=bool(number % 2)).encode() + b"\n")
            if file.tell() >= size:
                return number
    raise AssertionError("there is no end to the records")


def main() -> None:
    """Make the file, import it, print."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        source, target = Path(folder) / "in.jsonl", Path(folder) / "out.parquet"
        rows = write(source, size * 1_000_000)
        read = source.stat().st_size
        began = time.perf_counter()
        command = [sys.executable, "-m", "jobs", "import", str(source), str(target)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(json.dumps({
            "megabytes": round(read / 1e6, 1), "rows": rows, "seconds": round(seconds, 2),
            "megabytes_per_second": round(read / 1e6 / seconds, 1), "peak_megabytes": round(used.ru_maxrss / 1e3, 1),
            "processor_seconds": round(used.ru_utime + used.ru_stime, 2), "cores": os.cpu_count(),
            "parquet_megabytes": round(target.stat().st_size / 1e6, 1), "told": done.stdout.splitlines()[0],
        }))  # fmt: skip


if __name__ == "__main__":
    main()
