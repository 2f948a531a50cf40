"""Calibrates: measures what a job of a model takes, with random weights in the model's shape."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from pipeline.engine import native
from pipeline.engine.assembly import needs_of
from pipeline.engine.calibration.bench import Bench
from pipeline.engine.calibration.beside import beside
from pipeline.engine.calibration.drawn import drawn_model, held_bytes, largest_bytes, layers_to_measure, shorten
from pipeline.engine.calibration.figures import Calibration
from pipeline.engine.calibration.rates import bandwidth, rate
from pipeline.engine.calibration.rates import flops as flops_of
from pipeline.engine.calibration.task import Task
from pipeline.engine.model.load import make_ready
from pipeline.engine.model.tokenizer import load_tokenizer
from pipeline.engine.steps.eager import LOGITS_BYTES
from pipeline.machine import resident_bytes, waited_seconds


def calibrate(task: Task) -> Calibration:
    """Measure.

    Raises:
        ModelRefused: If the model cannot be made here.
    """
    began, waited = time.perf_counter(), waited_seconds()
    torch.set_num_threads(task.threads)
    native.use(task.engine.kernels)
    tokenizer = load_tokenizer(task.checkpoint.tokenizer, task.checkpoint.vocab_size or 0)
    process = resident_bytes()
    layers, measured = layers_to_measure(task.checkpoint)
    drawn = drawn_model(task.checkpoint, measured, task.model.dtype)
    before = time.thread_time()
    loaded = make_ready(
        drawn, task.checkpoint, task.model, max_len=task.max_len, deterministic=task.engine.deterministic
    )
    packing = time.thread_time() - before
    sizes, flops = held_bytes(loaded.model), flops_of(loaded)
    needs = needs_of(loaded, most_tokens=task.engine.max_num_batched_tokens or needs_of(loaded).most_tokens)
    bench = Bench(task, loaded, tokenizer, needs)
    step, times, taking = bench.memory(), bench.times(), bench.taking
    del bench
    rest = beside(task, loaded, tokenizer, needs, times)
    if measured < layers:
        half = measured // 2
        shorten(loaded, half)
        more = (layers - measured) / (measured - half)
        short = replace(loaded, layers=half)
        times = times.deeper(Bench(task, short, tokenizer, needs).times(), more)
        sizes += round((sizes - held_bytes(loaded.model)) * more)
        flops = tuple(a + (a - b) * more for a, b in zip(flops, flops_of(loaded), strict=True))
        packing *= 1 + more * (measured - half) / measured
        needs = replace(needs, block_bytes=needs.block_bytes * layers // measured)
    speed = rate(loaded, int8=task.model.quantization == "int8")
    took = time.perf_counter() - began
    return Calibration(
        layers=layers, measured=measured, took=took, busy=(waited_seconds() - waited) / took / task.threads, times=times,
        beside=rest, importing=0.0, packing=packing, taking=taking, process=process, weights=sizes,
        transient=largest_bytes(loaded.model), step=step, needs=needs, flops=speed, bandwidth=bandwidth(),
        token_flops=flops[0], output_flops=flops[1], streamed=round(flops[2]),
        most_scored=LOGITS_BYTES // (4 * loaded.vocab_size),
    )  # fmt: skip
