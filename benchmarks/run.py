"""Runs promptmill and its peers alternately on one machine, and prints one table of medians, ratios and shares of the limit.

    python -m benchmarks.run --model DIR [--peers FILE] [--measure uniform mixed …] [--rounds 3] [--only ENGINE …] [--profile]

Every run is written to a JSON file the moment it ends, with the machine and all versions; the table of one or several of them
is printed again by `python -m benchmarks.parts.table FILE …`. A line that fails is reported and left out of later rounds.
Absolute figures move from hour to hour; the ratios of alternating runs are what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.parts import lines as rows
from benchmarks.parts.machine import describe
from benchmarks.parts.table import render

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers.toml"
SIZES = ("tiny", "gpt2", "gpt2-large")
KEPT_LINES = 20
"""Last lines of a failed run's messages that are kept."""


def options() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = made.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, help="a model's folder")
    which.add_argument(
        "--size", choices=SIZES, default="gpt2-large", help="or make a GPT-2 with random weights (default: gpt2-large)"
    )
    made.add_argument(
        "--peers", type=Path, help="where the peers are; see peers.example.toml (default: peers.toml beside it)"
    )
    made.add_argument("--measure", nargs="+", choices=rows.MEASUREMENTS, default=list(rows.MEASUREMENTS[:4]))
    made.add_argument("--only", nargs="+", choices=rows.ENGINES, default=list(rows.ENGINES), metavar="ENGINE")
    made.add_argument("--precision", nargs="+", choices=rows.PRECISIONS, default=list(rows.PRECISIONS))
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--requests", type=int, help="default: each workload's own number")
    made.add_argument("--max-num-seqs", type=int, default=64)
    made.add_argument("--timeout", type=float, default=3600, help="seconds after which a run is ended")
    made.add_argument(
        "--quality", type=Path, help="a file of perplexities to print beside the speeds; see benchmarks.parts.table"
    )
    made.add_argument("--json", type=Path, help="default: a file named by the time in outputs/benchmarks")
    made.add_argument("--profile", action="store_true", help="show where a step's time goes instead")
    made.add_argument("--dry-run", action="store_true", help="print the commands only")
    return made


def main() -> None:
    """Parse the command line, alternate, print the table."""
    arguments = options().parse_args()
    for name in ("rounds", "requests", "max_num_seqs"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise SystemExit(f"--{name.replace('_', '-')}={value}: must be at least 1")
    if arguments.model is not None and not (arguments.model / "config.json").is_file():
        raise SystemExit(f"--model={arguments.model}: has no config.json; give a model's folder")
    quality = json.loads(arguments.quality.read_text()) if arguments.quality else None
    file = arguments.peers or (PEERS if PEERS.exists() else None)
    peers = rows.read_peers(file) if file else {}
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model.absolute() if arguments.model else _made(arguments.size, Path(folder))
        rows.refuse_other_models(peers, model)
        settings = rows.Settings(model, arguments.max_num_seqs, arguments.requests, peers)
        plan = {name: chosen(name, settings, arguments) for name in arguments.measure}
        if arguments.dry_run:
            print("\n".join(f"{name}: {shlex.join(line.command)}" for name, some in plan.items() for line in some))
        elif arguments.profile:
            profile(plan, arguments.timeout)
        else:
            print(render([alternate(plan, arguments, rows.absent(peers))], quality))


def chosen(measurement: str, settings: rows.Settings, arguments: argparse.Namespace) -> list[rows.Line]:
    """The lines of a measurement that were asked for."""
    return [
        line
        for line in rows.lines(measurement, settings)
        if line.engine in arguments.only and (not line.precision or line.precision in arguments.precision)
    ]


def alternate(plan: dict[str, list[rows.Line]], arguments: argparse.Namespace, absent: list[str]) -> dict[str, Any]:
    """Run every line once a round, round after round, and return all results."""
    now = datetime.now(UTC)
    file = arguments.json or ROOT / "outputs" / "benchmarks" / f"{now:%Y-%m-%d-%H%M%S}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    results = {
        "date": f"{now:%Y-%m-%d %H:%M} UTC", "machine": describe(), "rounds": arguments.rounds, "absent": absent,
        "model": arguments.model.name if arguments.model else arguments.size, "runs": runs,
    }  # fmt: skip
    for measurement, some in plan.items():
        failed: set[str] = set()
        for number in range(arguments.rounds):
            for line in (line for line in some if line.name not in failed):
                outcome = measure(line.command, arguments.timeout)
                print(f"{measurement} {number + 1}: {line.name}: {_brief(outcome)}", flush=True)
                if "error" in outcome:
                    failed.add(line.name)
                named = {"line": line.name, "engine": line.engine, "precision": line.precision}
                runs.append({"measurement": measurement, "round": number, **named, "command": line.command, **outcome})
                file.write_text(json.dumps(results, indent=1))
    print(f"\nAll runs are in {file}")
    return results


def profile(plan: dict[str, list[rows.Line]], timeout: float) -> None:
    """Print where a step's time goes, for promptmill's lines on each workload."""
    from benchmarks.phases import table

    for measurement, some in plan.items():
        for line in (line for line in some if line.engine == "promptmill"):
            words = ["benchmarks.phases" if word == "benchmarks.ours" else word for word in line.command]
            outcome = measure(tuple(words), timeout)
            body = outcome["error"] if "error" in outcome else table(outcome["figures"]["phases"])
            print(f"\n{measurement}, {line.name}: mean milliseconds a step\n\n{body}", flush=True)


def measure(command: tuple[str, ...], timeout: float) -> dict[str, Any]:
    """Run a command and return its `figures`, the last JSON line that it prints; or its `error` and `messages`."""
    path = os.pathsep.join(
        [str(Path(command[0]).parent), os.environ.get("PATH", "")]
    )  # an environment's own tools first
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = {**outside, "PATH": path, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, messages = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {timeout:g} seconds", "messages": []}
        finally:  # an engine's own processes are of its session, and none may disturb the next line
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    found = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode == 0 and found:
        return {"figures": json.loads(found[-1])}
    kept = [line for line in messages.splitlines() if line.strip()][-KEPT_LINES:]
    ending = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
    return {"error": f"{ending}: {kept[-1].strip() if kept else 'no message'}", "messages": kept}


def _brief(outcome: dict[str, Any]) -> str:
    """One run in a few words."""
    figures = outcome.get("figures", {})
    shown = {"tok_s": "tok/s", "seconds": "s", "full_step_seconds": "s a full step"}
    words = [f"{figures[key]:.4g} {unit}" for key, unit in shown.items() if figures.get(key) is not None]
    words += [f"{name} {figures[name]['rate'] / 1e9:.0f} GFLOP/s" for name in rows.PRECISIONS if name in figures]
    return "failed: " + outcome["error"] if "error" in outcome else ", ".join(words) or "done"


def _made(size: str, folder: Path) -> Path:
    from benchmarks.parts.sizes import make_model  # torch is loaded only when it is needed

    return make_model(size, folder)


if __name__ == "__main__":
    main()
