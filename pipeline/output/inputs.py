"""What all replicas must have read alike: digests of input pages that the plan could not know beforehand.

The first to read them puts down what it found, the others compare, before a part is made of them; so an output is never of
two versions of its input.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import InputRefused
from pipeline.store.base import Store

FOLDER = "_job/inputs/"


def agree(store: Store, digests: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Compare digests with those that were found first, or put them down.

    Args:
        store: The output folder.
        digests: Key of some pages → digest.
        names: The same keys → what to call the pages in a message.

    Raises:
        InputRefused: If pages were others when they were first read.
    """
    for key, digest in digests.items():
        name = f"{FOLDER}{key}"
        if not store.put_if_absent(name, digest.encode()) and store.get(name) != digest.encode():
            raise InputRefused(
                f"{names[key]}: changed since a part of this output was made of it; choose another output.path"
            )
