"""How long the demo takes from the command to its first committed part, for one or several checkouts in turn.

    python -m benchmarks.start [--cluster inline|local] [--rounds 3] [CHECKOUT ...]

Without a checkout, this one is measured. All use this Python with its libraries, and each its own compiled kernels, if `make
install` has built some in it. Prints one JSON line with the machine and the seconds of each run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.parts.machine import describe

ROOT = Path(__file__).parents[1]


def first_part(checkout: Path, cluster: str) -> float:
    """Run the demo in a new folder, and return the seconds to its first committed part.

    Raises:
        SystemExit: If the folder is not a checkout, or the job fails or ends without a part.
    """
    if not (checkout / "jobs" / "__init__.py").is_file():
        raise SystemExit(f"{checkout}: holds no checkout of promptmill")
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w") as log:
        out = Path(folder, "out")
        command = [
            sys.executable, "-m", "jobs", "generate", "experiment=demo", f"cluster={cluster}", f"output.path={out}",
            "output.report=false",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        began = time.perf_counter()
        run = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
        found = None
        while run.poll() is None:
            if found is None and any(out.glob("data/*.parquet")):
                found = time.perf_counter() - began
            time.sleep(0.01)
        if run.returncode or found is None:
            raise SystemExit(f"{checkout}: exit code {run.returncode}: {Path(log.name).read_text()[-500:]}")
        return found


def main(arguments: list[str] | None = None) -> None:
    """Measure the checkouts in turn, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[ROOT], metavar="CHECKOUT")
    parser.add_argument("--cluster", choices=("inline", "local"), default="inline")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    seconds: dict[str, list[float]] = {str(checkout): [] for checkout in options.checkouts}
    for _ in range(options.rounds):
        for checkout in options.checkouts:
            seconds[str(checkout)].append(round(first_part(checkout.resolve(), options.cluster), 2))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(json.dumps({"cluster": options.cluster, "medians": medians, "seconds": seconds, "machine": describe()}))


if __name__ == "__main__":
    main()
