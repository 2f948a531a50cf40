"""Products with many rows: blocks that are put in place beside blocks that are concatenated, for a large model's weights."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.scale import FULL
from pipeline.engine.plain.products import BlockedProduct, FixedRowsProduct, LibraryProduct, LogitsProduct

ROWS, BLOCK_ROWS = 512, 256
INNER = 20
"""Runs in one CUDA graph."""


def compare(bench: Bench) -> None:
    """Time a step's products at ROWS rows, each kind of weight as often as the model has it; less on a processor."""
    bench.close_all()
    full, shape = bench.scale is FULL, bench.scale.large
    rows, block = (ROWS, BLOCK_ROWS) if full else (8, 4)
    width, kind = shape.width, bench.device.kind
    weights = {
        "attention": (3 * width, width, shape.layers), "attention's output": (width, width, shape.layers),
        "widening": (4 * width, width, shape.layers), "narrowing": (width, 4 * width, shape.layers),
        "logits": (shape.vocab, width, 1),
    }  # fmt: skip
    before = after = 0.0
    for name, (channels, inner, times) in weights.items():
        weight = torch.randn(channels, inner, device=kind).to(torch.bfloat16)
        bias = None if name == "logits" else torch.randn(channels, device=kind).to(torch.bfloat16)
        product = LogitsProduct(weight, bias) if name == "logits" else LibraryProduct(weight, bias)
        x = torch.randn(rows, inner, device=kind).to(torch.bfloat16)
        concatenated, placed = FixedRowsProduct(product, block), BlockedProduct(product, block)
        same = torch.equal(concatenated(x), placed(x))
        one, other = (_milliseconds(bench, partial(run, x)) for run in (concatenated, placed))
        before, after = before + times * one, after + times * other
        note = f"{1e3 * one:.1f} µs concatenated; {times} a step; the same bits: {'yes' if same else 'no'}"
        bench.report.row(f"{name}, {rows} rows", 1e3 * other, "µs", note)
        del weight, bias, product, x, concatenated, placed
    bench.report.row(f"all products of a step, {rows} rows", after, "ms", f"{before:.3f} ms concatenated")


def _milliseconds(bench: Bench, run: partial[torch.Tensor]) -> float:
    inner = INNER if bench.device.kind == "cuda" else 1
    return bench.device.milliseconds(bench.device.repeated(run, inner)) / inner
