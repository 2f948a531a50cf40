"""The hub of models: its cache on this machine, and whether it can be reached."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants, get_session

from pipeline.run.doctor.finding import Finding, ok, to_fix, warning
from pipeline.run.doctor.machine import GIB, nearest
from pipeline.wording import one_line

PATIENCE = 5.0
"""Seconds for an answer."""


def check_hub() -> Iterator[Finding]:
    """Yield findings about the cache and the hub."""
    yield _cache(Path(constants.HF_HUB_CACHE))
    if constants.HF_HUB_OFFLINE:
        yield ok("hub", "not asked, as HF_HUB_OFFLINE says: models come from the cache or a folder")
        return
    try:
        answer = get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        status = int(answer.status_code)
    except Exception as error:  # whatever the client raises
        yield warning(
            "hub", f"{constants.ENDPOINT} cannot be reached: {one_line(error, 120) or type(error).__name__}",
            "models must be in the cache or in a folder (model.path=FOLDER); set HF_HUB_OFFLINE=1 if that is meant, "
            "HTTPS_PROXY or HF_ENDPOINT where a proxy or mirror is needed",
        )  # fmt: skip
        return
    if status < 500:
        yield ok("hub", f"{constants.ENDPOINT} answers")
    else:
        yield warning("hub", f"{constants.ENDPOINT} answers with {status}", "try again later; what is cached works")


def _cache(folder: Path) -> Finding:
    models = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    there = nearest(folder)
    free = shutil.disk_usage(there).free
    text = f"{folder}: {models} models, {free / GIB:,.1f} GiB free"
    if not os.access(there, os.W_OK):
        return warning(
            "hub cache", f"{folder} cannot be written", "name another with HF_HOME, or use a folder as model.path"
        )
    if folder.exists() and not folder.is_dir():
        return to_fix("hub cache", f"{folder} is no folder", "name another with HF_HOME")
    if free < 4 * GIB:
        return warning("hub cache", text, "gpt2-large takes 3.2 GB: free some, or name another disk with HF_HOME")
    return ok("hub cache", text)
