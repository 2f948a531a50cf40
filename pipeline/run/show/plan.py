"""Shows what a job takes: as lines for people, or as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pipeline.run.foresee import Foreseen
from pipeline.wording import counted, duration, plain, size
from pipeline.work.estimate.estimate import Estimate
from pipeline.work.estimate.sample import QUANTILES

_NAMES = ("shortest", "a quarter", "half", "three quarters", "95 %", "all")


def lines(found: Foreseen, price_per_hour: float | None) -> Iterator[str]:
    """Yield the lines for people.

    Args:
        found: What the job takes.
        price_per_hour: Of one machine; None: the cost is left out.
    """
    shown = found.estimate
    plan, sample = shown.plan, shown.sample
    figures = {"input": f"{counted(len(plan.files), 'file')}, {counted(plan.rows, 'row')}"}
    if sample is not None and sample.rows:
        figures["sample"] = "all rows" if sample.share <= 1 else f"{counted(len(sample.rows), 'row')}, spread evenly"
        figures["texts" if shown.scoring else "prompts"] = _prompts(sample.lengths()) or "none without an error"
        figures["errors"] = ", ".join(f"{n:,} {code}" for code, n in shown.errors.items()) or "none"
        figures["tokens"] = (
            f"{shown.prompt_tokens:,} of {'texts' if shown.scoring else 'prompts'}, {_completions(shown)}"
        )
    done = f", {found.committed:,} committed already" if found.committed else ""
    figures["parts"] = f"{plan.shard_count:,} of {counted(plan.rows_per_shard, 'row')} at most{done}"
    if shown.disk is not None:
        figures["disk"] = f"{size(shown.disk.bytes)} for the output"
    figures |= _replicas(shown) | _time(found, price_per_hour)
    yield f"plan {plan.plan8}"
    for name, value in figures.items():
        yield f"  {name:<9} {plain(value)}"
    for line in found.warnings:
        yield f"  warning   {plain(line)}"
    yield "nothing was started, and nothing was written to the output"


def _prompts(lengths: list[int]) -> str:
    """Say how long prompts are."""
    if not lengths:
        return ""
    if lengths[0] == lengths[-1]:
        return counted(lengths[0], "token")
    inner = ", ".join(f"{name} up to {n:,}" for name, n in zip(_NAMES[1:-1], lengths[1:-1], strict=True))
    return f"{lengths[0]:,} to {lengths[-1]:,} tokens: {inner}"


def _completions(shown: Estimate) -> str:
    if shown.ended is not None:
        return f"about {shown.completion_tokens:,} generated: in the last run {shown.ended:.0%} ended before max_tokens"
    if shown.scoring:
        return f"{shown.completion_tokens:,} scored"
    bound = " at most, as completions may end before max_tokens" if shown.upper_bound else ""
    return f"{shown.completion_tokens:,} generated{bound}"


def _replicas(shown: Estimate) -> dict[str, str]:
    place, memory = shown.place, shown.memory
    where = "" if place.machines == 1 else f" on {counted(place.machines, 'machine')}"
    found = {"replicas": f"{counted(place.replicas, 'replica')}{where}, {counted(place.threads, 'thread')} each"}
    if memory is None:
        return found
    if memory.planned is not None:
        found["at once"] = f"{counted(memory.planned.sequences, 'sequence')} per replica at most"
        if shown.simulated is not None and shown.simulated.running < memory.planned.sequences:
            found["at once"] += f", {shown.simulated.running:,} with parts of this size"
    found["memory"] = (
        f"{size(memory.total)} per replica: {size(memory.weights)} weights, {size(memory.cache)} KV cache, "
        f"{size(memory.step)} for a step, {size(memory.process)} Python and its libraries"
    )
    if memory.loading > memory.cache + memory.step:
        found["memory"] += f"; the most is taken while the weights are loaded, {size(memory.loading)} beside them"
    return found


def _time(found: Foreseen, price_per_hour: float | None) -> dict[str, str]:
    shown = found.estimate
    if shown.time is None:
        return {"time": f"not predicted: {found.unknown}" if found.unknown else "not predicted"}
    time, calibration = shown.time, shown.calibration
    assert calibration is not None
    most, does = "at most " if shown.upper_bound else "about ", "score" if shown.scoring else "generate"
    figures = {
        "time": f"{most}{duration(time.total)}: {duration(time.start + time.load)} to start, {duration(time.run)} to {does}",
        "speed": f"{shown.rate or 0:,.0f} tokens/s",
    }
    if shown.limit:
        figures["speed"] += f"; the machine's own limit for this is {shown.limit:,.0f}"
    scaled = "" if calibration.measured == calibration.layers else (
        f", {calibration.measured} of {calibration.layers} layers, the others added"
    )  # fmt: skip
    when = f"made now, took {calibration.took:.0f} s" if found.measured else "known from before"
    figures["measured"] = f"with random weights{scaled}; {when}"
    if calibration.disturbed:
        figures["measured"] += (
            f"; other work had the processor for {calibration.busy:.0%} of it, so that the time may be too long, and the next "
            "plan measures again"
        )
    if price_per_hour is not None:
        cost = time.total / 3600 * price_per_hour * shown.place.machines
        figures["cost"] = f"{most}{cost:,.2f}, at {price_per_hour:g} per hour and machine"
    return figures


def as_json(found: Foreseen, price_per_hour: float | None) -> str:
    """Return everything as one JSON object."""
    shown = found.estimate
    plan, sample, memory, time = shown.plan, shown.sample, shown.memory, shown.time
    body: dict[str, Any] = {
        "plan_id": plan.plan_id, "files": len(plan.files), "rows": plan.rows, "parts": plan.shard_count,
        "rows_per_part": plan.rows_per_shard, "committed_parts": found.committed,
        "sampled_rows": None if sample is None else len(sample.rows),
        "prompt_lengths": None if sample is None else dict(zip(map(str, QUANTILES), sample.lengths(), strict=False)),
        "errors": dict(shown.errors), "clamped_rows": shown.clamped, "upper_bound": shown.upper_bound,
        "replicas": shown.place.replicas, "threads": shown.place.threads, "machines": shown.place.machines,
        "process_bytes": None if memory is None else memory.process,
        "time": None if time is None else {**asdict(time), "total": time.total},
        "cost": None if time is None or price_per_hour is None else
                time.total / 3600 * price_per_hour * shown.place.machines,
        "unknown": found.unknown or None, "warnings": list(found.warnings), "prediction": asdict(shown.prediction()),
    }  # fmt: skip
    return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)
