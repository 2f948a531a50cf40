"""The store of an output: whether a file can be put there exactly once, tried with a file that is removed again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PromptmillError
from pipeline.run.doctor.finding import Finding, ok, to_fix
from pipeline.run.doctor.machine import nearest
from pipeline.store.base import open_store
from pipeline.store.local import LocalStore
from pipeline.wording import one_line

_DO = "choose another output.path (docs/how-to/object-stores.md says what a store must do)"


def check_store(output: str | None) -> Iterator[Finding]:
    """Yield a finding about the place of an output; None: about the folder for temporary files."""
    try:
        store = open_store(tempfile.gettempdir() if output is None else output)
        if not isinstance(store, LocalStore):
            store.probe()
            yield ok("store", f"{output}: a file is put once and never replaced")
            return
        folder = nearest(store.root)
        with tempfile.TemporaryDirectory(prefix=".promptmill-doctor-", dir=folder) as name:
            yield _local(LocalStore(Path(name)), folder)
    except (PromptmillError, OSError) as error:
        yield to_fix("store", one_line(error, 300), _DO)


def _local(store: LocalStore, folder: Path) -> Finding:
    first, second = store.put_if_absent("probe", b"1"), store.put_if_absent("probe", b"2")
    if first and not second and store.get("probe") == b"1":
        return ok("store", f"{folder}: a file is put once and never replaced")
    return to_fix("store", f"{folder}: a second file replaces the first of its name", _DO)
