from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputRefused
from pipeline.output.record.inputs import agree
from pipeline.store.base import open_store


def test_whoever_reads_pages_must_find_what_the_first_found(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), allow_unsafe=False)
    names = {"0-0": "a.parquet", "0-1": "a.parquet"}
    agree(store, {"0-0": "aa"}, names)
    agree(store, {"0-0": "aa", "0-1": "bb"}, names)
    with pytest.raises(InputRefused, match=r"a\.parquet: changed since a part of this output was made of it"):
        agree(store, {"0-1": "cc"}, names)
