"""Measures the compiled kernels of each level that this processor can run, beside what torch does at that level.

    python -m benchmarks.levels [--rounds 3] [--threads 1] [--only v3 …] [--parts kernels engine] [--model DIR]

For every level there is a process of its own, in which `engine.kernels` forces ours and the environment caps torch and oneDNN:
products in float32, int8 and bfloat16 at 1 to 256 rows, and attention that decodes and reads prompts. The two take turns, and
the shortest time of each counts. Then the whole engine, with and without compiled kernels (`level_engines`). Prints Markdown;
what is slower than what it replaces is marked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.parts import level_engines
from benchmarks.parts.level_engines import ratio
from benchmarks.parts.machine import describe

ROOT = Path(__file__).parents[1]
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHAPES = ((3840, 1280), (5120, 1280), (1280, 5120), (1536, 576))
"""Output and inner dimension of gpt2-large's linear layers, and of a small model's."""
CAPS = {
    "v3": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "v3-vnni": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"},
    "v4": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "v4-vnni": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "v4-bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "v4-amx": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"},
}
"""What keeps torch and oneDNN to a level. MKL, which multiplies float32 on Intel's processors, is not kept to it by these."""
PARTS = ("kernels", "engine")
ATTENTION = ((64, 1, 100), (64, 1, 500), (8, 1, 500), (1, 256, 0), (1, 256, 256))
"""Sequences, new tokens of each, positions before them; 20 heads of 64 elements, as gpt2-large has."""


def main() -> None:
    """Measure in this process with `--level`, else start one for each level and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.levels", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="some levels, instead of all that this processor can run")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (default: all)")
    parser.add_argument("--model", type=Path, help="the engine's model (default: a gpt2 with random weights)")
    parser.add_argument("--requests", type=int, default=8, help="sequences that the engine runs at once")
    parser.add_argument("--level", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.level:
        print(json.dumps(measured(arguments.level, arguments.threads, arguments.rounds)))
        return
    from benchmarks.parts.sizes import make_model
    from pipeline.engine import native

    print("\n".join(f"- {name}: {value}" for name, value in describe().items()))
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None and "engine" in arguments.parts:
            model = make_model("gpt2", Path(folder) / "gpt2")
        for level in arguments.only or native.levels():
            if "kernels" in arguments.parts:
                print(table(level, _in_its_own_process(level, arguments)), flush=True)
            if "engine" in arguments.parts:
                load = level_engines.Load(model.absolute(), arguments.requests, arguments.threads)
                found = level_engines.measured(level, CAPS.get(level, {}), load, arguments.rounds)
                print(level_engines.table(level, load, found), flush=True)


def _in_its_own_process(level: str, arguments: argparse.Namespace) -> dict[str, Any]:
    words = ["--level", level, "--threads", str(arguments.threads), "--rounds", str(arguments.rounds)]
    command = [sys.executable, "-m", "benchmarks.levels", *words]
    environment = {**os.environ, **CAPS.get(level, {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{level}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(level: str, threads: int, rounds: int) -> dict[str, Any]:
    """Force a level and measure: {"products": rows of the first table, "attention": rows of the second}."""
    import torch

    from pipeline.engine import native

    torch.set_num_threads(threads)
    native.use(f"native-{level}")
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "products": [_products(*shape, rows, rounds) for shape in SHAPES for rows in ROWS],
        "attention": [_attention(*case, rounds) for case in ATTENTION],
    }


def _products(out: int, width: int, rows: int, rounds: int) -> list[Any]:
    """[shape, rows, GFLOP/s of the compiled float32 product, of the library's, GOP/s of int8, GFLOP/s of bfloat16]."""
    import torch
    import torch.nn.functional as F

    from pipeline.engine import native
    from pipeline.engine.layers.linear import KERNELS

    weight, x = torch.randn(out, width), torch.randn(rows, width)
    compiled, int8 = (KERNELS[name](weight, None) for name in ("compiled", "int8-compiled"))
    own = "compiled-bfloat16" if native.multiplies_bfloat16() else "compiled"  # or widened as it is read
    bfloat16, short = KERNELS[own](weight.bfloat16(), None), x.bfloat16()
    ways = [lambda: compiled(x), lambda: F.linear(x, weight), lambda: int8(x), lambda: bfloat16(short)]
    times = best(ways, rounds)
    return [f"{out} × {width}", rows, *(2e-9 * rows * out * width / seconds for seconds in times)]


def _attention(sequences: int, new: int, past: int, rounds: int, heads: int = 20, dim: int = 64) -> list[Any]:
    """[sequences, new tokens, positions before, ms of the compiled attention with a cache in float32 and int8, of torch's]."""
    import torch

    from pipeline.engine.cache.block_pool import BLOCK, blocks_for
    from pipeline.engine.cache.kv_cache import KVCache
    from pipeline.engine.native.attention import NativeStep
    from pipeline.engine.plain import attention as plain_attention

    width = blocks_for(past + new)
    tables = torch.arange(sequences * width, dtype=torch.int32).view(sequences, width)
    q, k, v = (torch.randn(sequences * new, heads, dim) for _ in range(3))
    spots = [
        (row * new + start, min(BLOCK, new - start), past + start, row)
        for row in range(sequences)
        for start in range(0, new, BLOCK)
    ]
    chunks = torch.tensor(spots, dtype=torch.int32)
    ways: list[Callable[[], object]] = []
    for dtype in (torch.float32, torch.int8):
        cache = KVCache(1, sequences * width, heads, dim, dtype, torch.device("cpu"))
        cache.take(sequences * width)
        step = NativeStep(chunks, tables, heads, dim, dtype, sequences if new == 1 else 0)
        ways.append(lambda c=cache, s=step: s.attend(q, k, v, c.keys[0], c.values[0], dim**-0.5))
        if dtype == torch.float32:
            plain = cache
    grouped = (q * dim**-0.5).view(sequences * new, heads, 1, dim)
    ways.append(lambda: plain_attention.attend(grouped, plain.keys[0], plain.values[0], spots, tables))
    return [sequences, new, past, *(1e3 * seconds for seconds in best(ways, rounds))]


def best(ways: list[Callable[[], object]], rounds: int) -> list[float]:
    """The shortest time of each way, in seconds, over `rounds` turns of a tenth of a second each."""
    shortest = [float("inf")] * len(ways)
    for way in ways:
        way()
    for _ in range(rounds):
        for i, way in enumerate(ways):
            stop = time.perf_counter() + 0.1
            while (start := time.perf_counter()) < stop:
                way()
                shortest[i] = min(shortest[i], time.perf_counter() - start)
    return shortest


def table(level: str, found: dict[str, Any]) -> str:
    """What a level's process found, in Markdown."""
    lines = [
        f"\n### {level} (torch calls it {found['capability']})\n",
        "| weight | rows | compiled, GFLOP/s | library, GFLOP/s | ratio | int8, GOP/s | int8 ÷ compiled float32 | "
        "bfloat16, GFLOP/s | bfloat16 ÷ compiled float32 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for shape, rows, ours, theirs, int8, short in found["products"]:
        ratios = ratio(ours / theirs), ratio(int8 / ours), ratio(short / ours)
        lines.append(
            f"| {shape} | {rows} | {ours:.0f} | {theirs:.0f} | {ratios[0]} | {int8:.0f} | {ratios[1]} | "
            f"{short:.0f} | {ratios[2]} |"
        )
    lines += [
        "\n| sequences × new tokens, positions before | compiled, ms | with an int8 cache, ms | torch, ms | torch ÷ compiled |",
        "|---|---:|---:|---:|---:|",
    ]
    for sequences, new, past, ours, int8, theirs in found["attention"]:
        place = f"{sequences} × {new}, {past}"
        lines.append(f"| {place} | {ours:.2f} | {int8:.2f} | {theirs:.2f} | {ratio(theirs / ours)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
