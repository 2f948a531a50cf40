"""Checks that all replicas read the same input, by digests of pages that the plan could not know beforehand.

The first replica to read a page stores its digest, and the others compare theirs before they make a part. So an output never
mixes two versions of its input.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import InputRefused
from pipeline.store.base import Store

FOLDER = "_job/inputs/"


def agree(store: Store, digests: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Compare digests with the stored ones, or store them if they are the first.

    Args:
        store: The output folder.
        digests: Key of some pages → digest.
        names: The same keys → the pages' names for messages.

    Raises:
        InputRefused: If pages differ from when they were first read.
    """
    for key, digest in digests.items():
        name = f"{FOLDER}{key}"
        if not store.put_if_absent(name, digest.encode()) and store.get(name) != digest.encode():
            raise InputRefused(
                f"{names[key]}: changed since a part of this output was made of it; choose another output.path"
            )
