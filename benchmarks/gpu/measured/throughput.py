"""Tokens a second of whole workloads, promptmill with all statistics beside transformers without any.

It does not know why one is faster.
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec

from benchmarks import ours
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.measured import peers
from benchmarks.gpu.scale import Load
from pipeline.engine.base import BuiltEngine

TURNS = 2


def timed(bench: Bench, built: BuiltEngine, load: Load, turn: int = 0) -> float:
    """Run a workload to its end and return tokens per second.

    In the first turn all of it is run before, with other prompts: kernels are compiled and steps of each shape recorded when
    they first come up.

    Raises:
        RuntimeError: If the engine generated another number of tokens than was asked for.
    """
    if turn == 0:
        start = time.perf_counter()
        ours.run(built.engine, load.work(-1, bench.scale.large.vocab))
        bench.report.event("warm-up", load=load.name, seconds=time.perf_counter() - start)
    work = load.work(turn, bench.scale.large.vocab)
    bench.device.synchronize()
    start = time.perf_counter()
    tokens = ours.run(built.engine, work)
    seconds = time.perf_counter() - start
    wanted = sum(new for _, new in work)
    if tokens != wanted:
        raise RuntimeError(f"{load.name}: generated {tokens} tokens where {wanted} were asked for: no comparison")
    seqs = built.facts["max_num_seqs"]
    bench.report.event("run", engine=f"promptmill {seqs}", load=load.name, tokens=tokens, seconds=seconds)
    return tokens / seconds


def compare(bench: Bench) -> None:
    """Ours and `generate` in turn, both with as many sequences; ratios of the better runs. The engine is kept."""
    seqs, built = bench.scale.seqs, bench.large_engine()
    for load in bench.scale.loads:
        own: list[float] = []
        other: list[peers.Run] = []
        for turn in range(TURNS):
            own.append(timed(bench, built, load, turn))
            if not other or other[0].seconds < bench.scale.peer_seconds / 2:
                other.append(_static(bench, load, turn, seqs))
        best = max(other, key=lambda run: run.rate)
        bench.report.row(f"{load.name}, promptmill {seqs}", max(own), "tok/s", _each(own))
        note = " ".join(filter(None, [_each([run.rate for run in other]), best.note]))
        bench.report.row(f"{load.name}, generate {seqs}", best.rate, "tok/s", note)
        note = f"{load.requests} requests, {seqs} at once"
        bench.report.row(f"{load.name}, promptmill ÷ generate", max(own) / best.rate, "×", note)
    bench.close_peer()


def continuous(bench: Bench) -> None:
    """Continuous batching of transformers, which sizes its cache by the memory that is free, with the device to itself."""
    if bench.device.kind == "cpu" and find_spec("psutil") is None:
        note = "psutil, which transformers wants for it on a processor, is not installed"
        bench.report.row("continuous batching", "left out", "", note)
        return
    bench.close()
    for load in bench.scale.loads[:2]:
        work = load.work(0, bench.scale.large.vocab)
        run = peers.continuous(bench.peer(), work, bench.scale.seqs, bench.device, bench.scale.peer_seconds)
        name = f"generate_batch {bench.scale.seqs}"
        bench.report.event("run", engine=name, load=load.name, tokens=run.tokens, seconds=run.seconds)
        bench.report.row(f"{load.name}, {name}", run.rate, "tok/s", run.note)
    bench.close_all()


def other_sizes(bench: Bench) -> None:
    """Other sizes: promptmill with other numbers of sequences, `generate` with other batches."""
    for seqs in bench.scale.other_seqs:
        for load in bench.scale.loads if seqs > bench.scale.seqs else bench.scale.loads[:2]:
            load = replace(load, requests=max(load.requests, seqs))
            rate = timed(bench, bench.large_engine(seqs=seqs), load)  # made once: the bench keeps it
            room = bench.large_engine(seqs=seqs).engine.room.max_num_seqs
            note = f"{load.requests} requests" + ("" if room == seqs else f", memory holds {room}")
            bench.report.row(f"{load.name}, promptmill {seqs}", rate, "tok/s", note)
    bench.close()
    for batch in bench.scale.batches:
        for load in bench.scale.loads[:2]:
            run = _static(bench, load, 0, batch)
            bench.report.row(f"{load.name}, generate {batch}", run.rate, "tok/s", run.note)
    bench.close_all()


def _static(bench: Bench, load: Load, turn: int, batch: int) -> peers.Run:
    work = load.work(turn, bench.scale.large.vocab)
    run = peers.static(bench.peer(), work, batch, bench.device, bench.scale.peer_seconds)
    bench.report.event("run", engine=f"generate {batch}", load=load.name, tokens=run.tokens, seconds=run.seconds)
    return run


def _each(rates: list[float]) -> str:
    return "runs " + ", ".join(f"{rate:,.0f}" for rate in rates)
