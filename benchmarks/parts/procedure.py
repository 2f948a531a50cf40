"""How every engine is timed: a warm-up, then the whole workload by the clock, then a count of what came out.

Imports only the standard library, as it runs in every engine's environment. It does not know any engine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.parts.workload import WORKLOADS, Work, answers, distinct_tokens, make

WARM_UP_TOKENS = 2
"""New tokens of each of the two requests that are left out of the time."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line that every script has: MODEL WORKLOAD REQUESTS BATCH."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", help="the model's folder, in the form that the engine reads")
    made.add_argument("workload", choices=WORKLOADS)
    made.add_argument("requests", type=int)
    made.add_argument("batch", type=int, help="sequences at a time")
    return made


def measure(generate: Callable[[Work], int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Time an engine that is loaded.

    Args:
        generate: Runs requests to their end, each as often as the workload's `answers` say, and returns how many tokens
            it generated.
        arguments: Those of `parser`.

    Returns:
        The measurement; `tok_s` counts generated tokens, `distinct_prompt_tokens` what has to be read if shared beginnings are
        read once. Loading and the warm-up are left out of the time.

    Raises:
        SystemExit: If the engine generated another number of tokens than was asked for.
    """
    work = make(arguments.workload, arguments.requests)
    # backwards, so that no engine keeps a prefix of the workload from the warm-up
    generate([(prompt[::-1], min(new, WARM_UP_TOKENS)) for prompt, new in work[:2]])
    start = time.perf_counter()
    tokens = generate(work)
    seconds = time.perf_counter() - start
    samples = answers(arguments.workload).samples
    wanted = samples * sum(new for _, new in work)
    if tokens != wanted:
        raise SystemExit(
            f"{arguments.workload}: generated {tokens} tokens where {wanted} were asked for: no comparison"
        )
    return {
        "workload": arguments.workload, "requests": len(work), "completions": samples * len(work),
        "batch": arguments.batch, "tokens": tokens, "prompt_tokens": sum(len(prompt) for prompt, _ in work),
        "distinct_prompt_tokens": distinct_tokens([prompt for prompt, _ in work]), "seconds": round(seconds, 3),
        "tok_s": round(tokens / seconds, 2),
    }  # fmt: skip


def report(figures: dict[str, Any], *packages: str) -> None:
    """Print a measurement as the one JSON line that `run` reads, with the versions of `packages`."""
    print(json.dumps(figures | {"versions": versions(*packages)}), flush=True)


def versions(*packages: str) -> dict[str, str]:
    """Package → installed version; packages that are not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
