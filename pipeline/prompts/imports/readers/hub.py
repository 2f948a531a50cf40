"""Datasets of the Hugging Face hub, streamed through `datasets`, which is an extra."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import InputRefused
from pipeline.prompts.imports.chunk import Chunk
from pipeline.prompts.imports.config import ImportSource
from pipeline.wording import one_line

_SCHEME = re.compile(r"hf://datasets/([^/@]+/[^/@]+|[^/@]+)(?:@([^/]+))?/?")
"""A whole dataset; what has more parts is a file in one, which pyarrow opens."""
_BATCH_ROWS = 1000
INSTALL = "pip install datasets"


def is_dataset(path: str) -> bool:
    """Whether a path is a dataset of the hub."""
    return _SCHEME.fullmatch(path) is not None


def rows(paths: Sequence[str], source: ImportSource) -> Iterator[Chunk]:
    """Yield the rows of datasets as they are streamed.

    Args:
        paths: Their ids, `hf://datasets/` before them or not.
        source: Configuration, split and revision.

    Raises:
        InputRefused: If `datasets` is missing, or says that there is no such dataset, configuration or split.
    """
    datasets = _library(paths[0])
    for path in paths:
        found = _SCHEME.fullmatch(path)
        name, revision = (found[1], found[2]) if found else (path, None)
        try:
            dataset = datasets.load_dataset(
                name, source.config, split=source.split, revision=source.revision or revision, streaming=True
            )
            for table in dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS):
                yield Chunk(_plain(table), [])
        except Exception as error:  # whatever it is, it comes from the hub or from what the dataset says of itself
            kind = type(error).__name__
            where = f"{path}: split {source.split}" + (f", configuration {source.config}" if source.config else "")
            raise InputRefused(f"{one_line(where)}: {kind}: {one_line(error)}") from error


def _library(path: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        what = f"a dataset of the hub is read with datasets, which is not installed: {INSTALL}"
        raise InputRefused(f"{one_line(path)}: {what}") from error


def _plain(table: pa.Table) -> pa.Table:
    """Return the table without the metadata in which `datasets` describes its columns."""
    return pa.table(table.columns, schema=table.schema.remove_metadata())
