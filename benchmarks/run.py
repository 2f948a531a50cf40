"""Runs promptmill's engine and its peers alternately on one machine and prints one table of medians and ratios.

    python benchmarks/run.py [--model DIR] [--size gpt2|gpt2-large] [--workload mixed] [--requests 128] [--rounds 3]
                             [--peer NAME 'COMMAND']...

Without `--model`, a GPT-2 of `--size` with random weights is made in a temporary folder: speed does not depend on what the
weights are. A further peer is a command that prints a JSON line with `tok_s`; `{model}`, `{workload}` and `{requests}` in it
are filled in. Absolute figures move from hour to hour; the ratios of alternating runs are what counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from workload import WORKLOADS

HERE = Path(__file__).parent
SIZES = {"gpt2": (768, 12, 12), "gpt2-large": (1280, 36, 20)}
BATCHES = {"uniform": 64, "mixed": 16}
"""transformers' best batch size: a large one wastes most of its work when lengths are mixed."""


def make_model(size: str, folder: Path) -> Path:
    """Write a GPT-2 with random weights; its tokenizer is the demo model's, as only ids are used."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    n_embd, n_layer, n_head = SIZES[size]
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=n_embd, n_layer=n_layer, n_head=n_head)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(HERE.parent / "examples" / "demo-model" / name, folder)
    return folder


def measure(command: list[str]) -> float:
    """Run a command and return the tokens per second in the last JSON line that it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")
    print(lines[-1], flush=True)
    return float(json.loads(lines[-1])["tok_s"])


def main() -> None:
    """Parse the command line, alternate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--workload", choices=WORKLOADS, default="mixed")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", nargs=2, action="append", default=[], metavar=("NAME", "COMMAND"))
    parser.add_argument("--int8", action="store_true", help="measure the int8 engine too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or make_model(arguments.size, Path(folder))
        names = {"model": str(model), "workload": arguments.workload, "requests": str(arguments.requests)}
        shared = [names["model"], names["workload"], names["requests"]]
        ours = [sys.executable, str(HERE / "ours.py"), *shared, str(arguments.max_num_seqs)]
        commands = {"promptmill": ours}
        if arguments.int8:
            commands["promptmill int8"] = [*ours, "--int8"]
        commands["transformers.generate"] = [
            sys.executable, str(HERE / "transformers_generate.py"), *shared, str(BATCHES[arguments.workload])
        ]  # fmt: skip
        for name, command in arguments.peer:
            commands[name] = [word.format(**names) for word in shlex.split(command)]
        results: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                results[name].append(measure(command))
    print(table(results, f"{arguments.workload}, {arguments.requests} requests, medians of {arguments.rounds}"))


def table(results: dict[str, list[float]], title: str) -> str:
    """A Markdown table: engine, median tokens per second, all runs, and how many times as fast promptmill is."""
    first = statistics.median(next(iter(results.values())))
    lines = [
        f"\n{title}, on {platform.machine()}",
        "",
        "| engine | tok/s | runs | promptmill is |",
        "|---|---|---|---|",
    ]
    for name, runs in results.items():
        median = statistics.median(runs)
        lines.append(f"| {name} | {median:.1f} | {', '.join(f'{r:.1f}' for r in runs)} | {first / median:.2f} × |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
