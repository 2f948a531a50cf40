"""Names the risks of a planned job, such as too little memory or disk: one line each, with what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pipeline.types import ErrorCode
from pipeline.wording import counted, duration, size
from pipeline.work.config import GenerateConfig
from pipeline.work.estimate.estimate import Estimate

_SPARE = 1.1
"""Free disk that an output should find, relative to its size."""


def risks(found: Estimate, config: GenerateConfig, now: datetime) -> Iterator[str]:
    """Yield the lines.

    Args:
        found: What the job takes.
        config: What was asked for.
        now: Local time.
    """
    yield from _of_rows(found, config)
    yield from _of_memory(found)
    yield from _of_output(found, config)
    deadline = config.deadline_after(now)
    if (
        found.time is not None
        and deadline is not None
        and (left := (deadline - now).total_seconds()) < found.time.total
    ):
        yield (
            f"deadline={config.deadline}: is {duration(left)} away, and the job takes {duration(found.time.total)}: it will "
            "stop there, and the same command goes on"
        )


def _of_rows(found: Estimate, config: GenerateConfig) -> Iterator[str]:
    context = found.plan.fingerprint["engine"]["max_model_len"]
    long = found.errors.get(ErrorCode.PROMPT_TOO_LONG, 0)
    cut = 0 if found.sample is None else round(sum(bool(r.cut) for r in found.sample.rows) * found.sample.share)
    about = _about(found)
    if long:
        yield (
            f"the context of {context} tokens is too small for {about}{counted(long, 'row')}, which become errors: set "
            "source.on_long_prompt=truncate_left, or take a model with a longer one"
        )
    if cut:
        yield f"the context of {context} tokens is too small for {about}{counted(cut, 'prompt')}, which lose their beginning"
    if found.clamped:
        yield (
            f"sampling.max_tokens={config.sampling.max_tokens} is clamped for {about}{counted(found.clamped, 'row')}: prompt "
            f"and completion have {context} tokens together"
        )
    bad = sum(found.errors.values())
    if found.plan.rows and bad > config.max_error_rate * found.plan.rows:
        yield (
            f"{about}{counted(bad, 'row')} become errors, more than max_error_rate={config.max_error_rate:g} allows: exit "
            "code 3"
        )


def _of_memory(found: Estimate) -> Iterator[str]:
    memory, place = found.memory, found.place
    if memory is None or place.available is None:
        return
    if memory.planned is None:
        yield memory.why
    elif memory.total * place.together > place.available:
        fit = max(1, place.available // memory.total)
        advice = (
            f"set cluster.replicas={fit}"
            if place.together > 1
            else "take a smaller model, or lower engine.max_num_seqs"
        )
        yield (
            f"{counted(place.together, 'replica')} on one machine need {size(memory.total * place.together)}, and "
            f"{size(place.available)} are free: {advice}"
        )


def _of_output(found: Estimate, config: GenerateConfig) -> Iterator[str]:
    if config.output.allow_unsafe_store:
        yield (
            "output.allow_unsafe_store=true: on a store without put-if-absent, two drivers or a late replica may replace each "
            "other's parts; run one driver only"
        )
    free = _free_disk(config.output.path)
    if found.disk is not None and free is not None and found.disk.bytes * _SPARE > free:
        yield (
            f"output.path={config.output.path}: {size(free)} are free there, and the output takes {size(found.disk.bytes)}: "
            "the job will stop when the disk is full; choose another folder"
        )


def _free_disk(path: str) -> int | None:
    """Return the free bytes where a local folder is or will be; None: unknown."""
    path = path.removeprefix("file://")
    if "://" in path:
        return None
    folder = Path(path).expanduser().absolute()
    try:
        return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    except (OSError, StopIteration):
        return None


def _about(found: Estimate) -> str:
    """A word before numbers that a sample was scaled up to."""
    return "" if found.sample is None or found.sample.share <= 1 else "about "
