"""Measures how fast this machine multiplies matrices, and prints one JSON line: the limit that engines are held against.

    python -m benchmarks.limits MODEL ROWS

Two rates for float32 and int8, each the best of the products there are: of one large product, and of all the model's linear
layers one after the other at ROWS rows, as in a step that decodes ROWS sequences. Every layer has a weight of its own there, so
that weights come from memory. int8 counts the product of whole numbers alone; quantising is the engine's own cost. The engine's
kernels compete too, so that no share is above 1 by definition.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.parts.procedure import report
from benchmarks.parts.sizes import Linears, linears

LARGE_ROWS = 1024
LARGE_SQUARE = 2048
REPEATS = 3
WORTH_A_STEP = 0.5
"""Share of the best rate from which a product is tried on all layers: what is slower loses there too, and takes minutes."""
Run = Callable[[], object]
Product = Callable[[torch.Tensor, torch.Tensor], Run]
"""x [M, K] and a weight [N, K], both float32 → what multiplies them, with the weight in a form and memory of its own."""


def plain(x: torch.Tensor, weight: torch.Tensor) -> Run:
    """The library's own product."""
    own = weight.clone()
    return lambda: F.linear(x, own)


def onednn_packed(x: torch.Tensor, weight: torch.Tensor) -> Run:
    """oneDNN's, with a packed weight."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.clone(), len(x))
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def int_mm(x: torch.Tensor, weight: torch.Tensor) -> Run:
    """The library's int8 product, with int32 sums."""
    left, right = (x * 64).to(torch.int8), (weight * 64).to(torch.int8).t().contiguous()
    return lambda: torch._int_mm(left, right)


def onednn_int8(x: torch.Tensor, weight: torch.Tensor) -> Run:
    """The product of uint8 with a packed int8 weight, float32 out, that oneDNN has."""
    left = (x.abs() * 64).to(torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack((weight * 64).to(torch.int8), list(x.shape))
    scales, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int32)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        left, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def products() -> dict[str, dict[str, Product]]:
    """Precision → name → product; the engine's kernels among them."""
    found: dict[str, dict[str, Product]] = {
        "float32": {"F.linear": plain, "oneDNN packed": onednn_packed},
        "int8": {"_int_mm": int_mm, "oneDNN int8": onednn_int8},
    }
    try:
        from pipeline.engine.layers.linear import KERNELS
    except ImportError:
        return found
    for name, kernel in KERNELS.items():

        def of_engine(x: torch.Tensor, weight: torch.Tensor, kernel: Any = kernel) -> Run:
            own = kernel(weight.clone(), None)
            return lambda: own(x)

        found["int8" if name.startswith("int8") else "float32"][f"engine's {name}"] = of_engine
    return found


def shortest(run: Run) -> float:
    """Seconds of the quickest of a few calls, after one that does not count."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def large_rate(product: Product, widest: tuple[int, int]) -> float:
    """FLOP/s of one product of LARGE_ROWS rows: the better of the model's widest layer and a square."""
    rates = []
    for out, width in (widest, (LARGE_SQUARE, LARGE_SQUARE)):
        run = product(torch.rand(LARGE_ROWS, width), torch.rand(out, width))
        rates.append(2 * LARGE_ROWS * out * width / shortest(run))
    return max(rates)


def step_seconds(product: Product, layers: Linears, rows: int) -> float:
    """Seconds of all the model's products at `rows` rows, each with a weight of its own."""
    inputs = {width: torch.rand(rows, width) for _, width in layers.shapes}
    weights = {shape: torch.rand(shape) for shape in layers.shapes}
    runs = [product(inputs[shape[1]], weights[shape]) for shape in layers.shapes]
    return shortest(lambda: [run() for run in runs])


def measure(candidates: dict[str, Product], layers: Linears, rows: int) -> dict[str, Any]:
    """The best of some products; what cannot run here is named with the reason."""
    rates: dict[str, float] = {}
    steps: dict[str, float] = {}
    left_out = {}
    for name, product in candidates.items():
        try:
            rates[name] = large_rate(product, max(layers.shapes[:-1]))
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            left_out[name] = str(error).splitlines()[0]
    if not rates:
        raise SystemExit(f"no product runs here: {left_out}")
    best = max(rates, key=rates.__getitem__)
    for name in (name for name, rate in rates.items() if rate >= WORTH_A_STEP * rates[best]):
        steps[name] = step_seconds(candidates[name], layers, rows)
    quickest = min(steps, key=steps.__getitem__)
    return {
        "rate": rates[best], "product": best, "step_seconds": steps[quickest], "step_product": quickest,
        "rates": rates, "steps": steps, "left_out": left_out,
    }  # fmt: skip


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=int)
    arguments = parser.parse_args()
    layers = linears(arguments.model)
    torch.set_grad_enabled(False)
    found = {name: measure(candidates, layers, arguments.rows) for name, candidates in products().items()}
    report({"engine": "limit", "rows": arguments.rows, "sizes": layers.figures, **found}, "torch")


if __name__ == "__main__":
    main()
