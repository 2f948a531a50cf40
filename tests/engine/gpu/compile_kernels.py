"""Compiles the sampler's kernels for GPUs that need not be there, and prints a line of JSON for each."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.engine.gpu import sampler_kernels, threshold_kernels
from pipeline.engine.gpu.sampler import SCANNED, TILE

TYPES = {
    "logits": "*fp32", "temperature": "*fp32", "thresholds": "*fp32", "tops": "*fp32", "ids": "*i32", "sums": "*i64",
    "products": "*i64", "larger": "*i32", "strange": "*i32", "greedy": "*i1", "uniform": "*fp64", "tokens": "*i64",
    "top_p": "*fp32", "log_min_p": "*fp32", "top_k": "*i64", "most": "*fp32", "log_sum": "*fp32", "entropy": "*fp32",
    "rank": "*i32", "finite": "*i1", "found": "*i64", "values": "*fp32",
}  # fmt: skip
"""Of parameters by their names; all others are i32."""


def kernels(unit: int, tiles: int) -> list[tuple[Any, int, dict[str, Any]]]:
    """(kernel, warps, constants) as `gpu.sampler` launches them."""
    s, rows, ids = sampler_kernels, {"UNIT": unit, "TILE": TILE}, {"ids": "*i64"}
    ways = [(True, False), (False, False), (False, True)]
    return [
        *((s.weigh_tiles, 8, {**rows, "WEIGH": not greedy, "CUT": cut}) for greedy, cut in ways),
        *((s.choose, 8, {**rows, "GREEDY": greedy, "CUT": cut, "TILES": tiles}) for greedy, cut in ways),
        (s.measure_tiles, 8, rows), (s.measure, 1, {"TILES": tiles}),
        (s.best_of_tiles, 8, rows), (s.best_of_rows, 4, {"UNIT": unit, "COUNT": tiles * 8, **ids}),
        (threshold_kernels.find_thresholds, 16, {"UNIT": unit, "TILE": SCANNED}),
    ]  # fmt: skip


def compiled(kernel: Any, warps: int, constants: dict[str, Any], capability: int) -> dict[str, Any]:
    """What a kernel needs of a GPU, and whether it reads four numbers at once."""
    types = {**TYPES, **{k: v for k, v in constants.items() if isinstance(v, str)}}
    constants = {k: v for k, v in constants.items() if not isinstance(v, str)}
    names = [*inspect.signature(kernel.fn).parameters]
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(done.asm["cubin"])
        file.flush()
        tool = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        used = dict(re.findall(r"(\w+):(\d+)", subprocess.run(tool, capture_output=True, text=True, check=True).stdout))
    return {
        "kernel": kernel.fn.__name__, "constants": constants, "capability": capability, "shared": done.metadata.shared,
        "registers": int(used["REG"]), "spilled": int(used["STACK"]) + int(used["LOCAL"]),
        "fours": "ld.global.v4" in done.asm["ptx"],
    }  # fmt: skip


if __name__ == "__main__":
    for unit, tiles in ((4, 16), (1, 64)):
        for case in kernels(unit, tiles):
            for capability in map(int, sys.argv[1:]):
                print(json.dumps(compiled(*case, capability)), flush=True)
    # what is 1 when a kernel is launched is a constant to it
    ones = {"UNIT": 1, "TILE": TILE, "stride": 1, "vocabulary": 1, "width": 1}
    alone = {**ones, "tiles": 1, "TILES": 1, "GREEDY": False, "CUT": True}
    scanned = {**ones, "TILE": SCANNED}
    for kernel, warps, constants in (
        (sampler_kernels.choose, 8, alone), (sampler_kernels.best_of_tiles, 8, {**ones, "k": 1}),
        (threshold_kernels.find_thresholds, 16, scanned), (sampler_kernels.measure, 1, {"tiles": 1, "TILES": 1}),
        (sampler_kernels.best_of_rows, 4, {"UNIT": 1, "stride": 1, "count": 1, "k": 1, "COUNT": 1, "ids": "*i64"}),
    ):  # fmt: skip
        print(json.dumps(compiled(kernel, warps, constants, int(sys.argv[1]))), flush=True)
