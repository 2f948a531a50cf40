"""A part of the output: its name, its encoding, its commit, and the metadata in its footer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import __version__
from pipeline.errors import PlanRefused
from pipeline.output.config import OutputConfig
from pipeline.output.record.counts import Counts
from pipeline.output.schema import COLUMNS
from pipeline.store.base import Store
from pipeline.store.door import parse

FOLDER = "data/"
ROWS_PER_GROUP = 10_000
PIECE = 1 << 20
SMALLEST = 1
"""Least bytes of a file that may be a part: an empty file only occupies the name."""
SET_ASIDE = "_job/set_aside/"

_log = logging.getLogger(__name__)
LARGEST_PAGE = 64 << 20
"""Approximate page size in bytes. Arrow checks the size only after each batch of values, and a page must stay below 2 GiB."""

_FLOAT_LISTS = {
    name for name, kind in COLUMNS.items() if kind in (pa.list_(pa.float32()), pa.list_(pa.list_(pa.float32())))
}
_NO_DICTIONARY = {"text", "token_ids", "top_token_ids", "prompt_token_ids"}
_NAME = re.compile(r"data/([0-9a-f]{8})-(\d{5,})-of-(\d{5,})\.parquet")


@dataclass(frozen=True, slots=True)
class PartName:
    """The fields of a part's file name."""

    plan8: str
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class PartInfo:
    """The metadata in a committed part's footer: its plan, its counts, and the environment that its bits depend on.

    `environment` is empty if it was not recorded.
    """

    plan_id: str
    shard: int
    attempt: str
    version: str
    counts: Counts
    environment: Mapping[str, Any] = field(default_factory=dict)


def part_name(plan8: str, index: int, count: int) -> str:
    """Return the stored name of part `index` of `count`; numbers have five digits, or more if needed."""
    return f"{FOLDER}{plan8}-{index:05d}-of-{count:05d}.parquet"


def parse_part_name(name: str) -> PartName | None:
    """Parse a name made by `part_name`; return None for any other name."""
    match = _NAME.fullmatch(name)
    parsed = PartName(match[1], int(match[2]), int(match[3])) if match else None
    # One part has one name: `000003` is not another way to write part 3.
    return parsed if parsed and part_name(parsed.plan8, parsed.index, parsed.count) == name else None


def part_metadata(
    plan_id: str, shard: int, attempt: str, counts: Counts, environment: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return the footer entries of a part.

    The counts let a resumed run compute its totals. The environment is there because the parts of one output may be made on
    different machines.
    """
    return {
        "promptmill.plan_id": plan_id,
        "promptmill.shard": str(shard),
        "promptmill.attempt": attempt,
        "promptmill.version": __version__,
        "promptmill.report": json.dumps(asdict(counts), sort_keys=True),
        "promptmill.environment": json.dumps(environment or {}, sort_keys=True),
    }


def encode_part(table: pa.Table, config: OutputConfig, metadata: Mapping[str, str]) -> bytes:
    """Return a Parquet file: the same table, configuration and metadata give the same bytes.

    Float lists are byte-stream-split, which is two fifths smaller than pyarrow's default, a dictionary. Token ids and text
    gain nothing from a dictionary either; all other columns have one. Every page has a checksum. An empty table gives a file
    without row groups, as `datasets` cannot read an empty one.

    Args:
        table: What `build_table` returned.
        config: Compression and its level.
        metadata: What `part_metadata` returned.
    """
    table = table.replace_schema_metadata(dict(metadata))
    leaves = list(_leaves(table.schema))
    options: dict[str, Any] = {
        "compression": config.compression,
        "compression_level": config.compression_level,
        "use_dictionary": [leaf for leaf, name in leaves if name not in _FLOAT_LISTS and name not in _NO_DICTIONARY],
        "write_batch_size": max(1, min(1024, LARGEST_PAGE // max(1, table.nbytes // max(1, table.num_rows)))),
        "column_encoding": {leaf: "BYTE_STREAM_SPLIT" for leaf, name in leaves if name in _FLOAT_LISTS},
    }
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=True, write_page_index=True, **options) as writer:
        if table.num_rows:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
    return sink.getvalue().to_pybytes()


def commit_part(store: Store, name: str, data: bytes, plan_id: str) -> bool:
    """Write a part under its final name. Return True if this call did, False if the plan's part already existed.

    Raises:
        PlanRefused: If a file of that name exists that does not belong to this plan.
        StorageFull: If no space is left; no partial file stays.
    """
    if store.put_if_absent(name, data) or (_set_aside_if_void(store, name) and store.put_if_absent(name, data)):
        return True
    try:
        found = read_report(store, name)
    except (ValueError, OSError) as error:
        raise PlanRefused(
            f"{name} already exists and is not a part: {error}; remove it or choose another output.path"
        ) from error
    if found.plan_id != plan_id:
        raise PlanRefused(f"{name} already exists and belongs to plan {found.plan_id[:8]}; choose another output.path")
    return False


def _set_aside_if_void(store: Store, name: str) -> bool:
    """Move away what occupies a part's name without being a part: an empty file, a folder, a dangling link."""
    try:
        if store.size(name) >= SMALLEST:
            return False
    except FileNotFoundError:
        pass
    aside = f"{SET_ASIDE}{secrets.token_hex(4)}/{name}"
    with contextlib.suppress(FileNotFoundError):  # another replica was faster
        store.move(name, aside)
        _log.warning("%s held no part, only its name; it is set aside as %s", name, aside)
    return True


def read_report(store: Store, name: str) -> PartInfo:
    """Read a part's metadata from its footer; no page is read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not Parquet, or not a part that promptmill wrote.
    """
    with store.open(name) as file:
        try:
            metadata: dict[bytes, bytes] = pq.read_metadata(file).metadata or {}
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{name}: not a readable Parquet file: {error}") from error
    try:
        entry = {
            key: metadata[f"promptmill.{key}".encode()].decode() for key in ("plan_id", "shard", "attempt", "version")
        }
        counts = parse(metadata[b"promptmill.report"], Counts)
        environment: Mapping[str, Any] = parse(metadata.get(b"promptmill.environment", b"{}"), Mapping)  # type: ignore[type-abstract]
        return PartInfo(entry["plan_id"], int(entry["shard"]), entry["attempt"], entry["version"], counts, environment)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: its footer is not of a part: {error!r}") from error


def sha256_of(store: Store, name: str) -> str:
    """Return the SHA-256, in hex, of a stored file, which is read piece by piece."""
    digest = hashlib.sha256()
    with store.open(name) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, str]]:
    """Yield (path in Parquet, name of the column) of every primitive column, named as Parquet names it."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    described: Any = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    paths = [described.column(i).path for i in range(len(described))]
    for field_ in schema:
        while paths and (paths[0] == field_.name or paths[0].startswith(f"{field_.name}.")):
            yield paths.pop(0), field_.name
