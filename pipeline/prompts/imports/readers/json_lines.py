"""JSON Lines: Arrow's parser for whole blocks, and Python's, line by line, where something is not as it should be.

Arrow's parser is several times as fast, and lets through what is no JSON Lines or loses digits. So its result counts only where
rows and lines are as many, the text is UTF-8, and no number with a fraction is beyond those whole numbers that it has exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.types as kinds

from pipeline.prompts.imports.chunk import Bad, Chunk, Placed
from pipeline.prompts.imports.kinds import MOST_EXACT, NOTHING, Misfit, Type, check_exact, merged, of_value
from pipeline.prompts.imports.readers.blocks import Block
from pipeline.prompts.imports.readers.one_record import OPENINGS, Unusable, dumped, record_of, too_deep
from pipeline.prompts.imports.refusals import misfit_refused

THREADS = 2
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{\n"))
Change = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes of a record what is to be imported of it, or raises `Unusable`."""


class LineParser:
    """Parses blocks. Texts of the first block that look like timestamps are declared as text to Arrow for all later blocks."""

    def __init__(self, change: Change | None = None, columns: Collection[str] = ()) -> None:
        """Begin.

        Args:
            change: Applied to every record; parsing then takes several times as long.
            columns: The fields to read, whatever the others hold; empty: all.
        """
        self._change, self._columns = change, columns
        self._texts: list[pa.Field[Any]] = []

    def parse(self, blocks: Iterator[Block]) -> Iterator[Chunk]:
        """Yield a chunk per block, in order, while others are parsed by other threads.

        Raises:
            InputRefused: If the values of a field in a block have no type in common.
        """
        first = next(blocks, None)
        if first is None:
            return
        chunk = self._chunk(first)
        self._texts = list(self._moments(first))
        yield chunk
        waiting: deque[Future[Chunk]] = deque()
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="import")
        try:
            for block in blocks:
                waiting.append(pool.submit(self._chunk, block))
                if len(waiting) > THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _moments(self, block: Block) -> Iterator[pa.Field[Any]]:
        table = _read(block.data, []) if self._change is None and _objects(block.data) else None
        for field in table.schema if table is not None else ():
            if (text := _without_moments(field.type)) != field.type:
                yield field.with_type(text)

    def _chunk(self, block: Block) -> Chunk:
        table = fast(block.data, self._texts) if self._change is None else None
        if table is not None:
            return Chunk(table, [], lambda: self._records(block, []))
        bad: list[Bad] = []
        lines = [line for _, line, _ in self._careful(block, bad)]
        table = fast(b"\n".join(lines), [])
        return Chunk(self._by_python(block) if table is None else table, bad, lambda: self._records(block, []))

    def _careful(self, block: Block, bad: list[Bad]) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
        """Yield the place, JSON and value of every record; unusable lines go to `bad`."""
        for number, line in block.lines():
            try:
                record = record_of(line)
                if self._change is not None:
                    record = self._change(record)
                    line = dumped(record).encode()
            except Unusable as error:
                bad.append((block.place(number), str(error)))
                continue
            yield block.place(number), line, record

    def _records(self, block: Block, bad: list[Bad]) -> Iterator[Placed]:
        for place, _, record in self._careful(block, bad):
            yield place, {n: v for n, v in record.items() if n in self._columns} if self._columns else record

    def _by_python(self, block: Block) -> pa.Table:
        """Parse a block with Python's JSON parser.

        Raises:
            InputRefused: If the values of a field have no type in common; names the line.
        """
        kind: Type = NOTHING
        placed = list(self._records(block, []))
        for place, record in placed:
            try:
                kind = merged(kind, of_value(record))
            except Misfit as misfit:
                raise misfit_refused(place, misfit) from misfit
        for place, record in placed:
            try:
                check_exact(record, kind)
            except Misfit as misfit:
                raise misfit_refused(place, misfit) from misfit
        return table_of([record for _, record in placed], kind)


def table_of(records: list[dict[str, Any]], kind: Type) -> pa.Table:
    """Return records as a table with the fields of a struct as its columns."""
    arrow: Any = pa  # the stubs want types that are known
    return pa.Table.from_batches([arrow.RecordBatch.from_struct_array(arrow.array(records, type=kind))])


def fast(data: bytes, texts: list[pa.Field[Any]]) -> pa.Table | None:
    """Parse lines with Arrow; None where its result may differ from the JSON.

    Args:
        data: Lines.
        texts: Columns that are known to be text, which Arrow might take for timestamps.
    """
    lines = _objects(data)
    if not lines:
        return None if lines is None else pa.table({})
    table = _read(data, texts)
    if table is None and texts:
        table = _read(data, [])
    if table is None or table.num_rows != lines:
        return None
    if any(_without_moments(field.type) != field.type for field in table.schema):
        table = _read(data, [field.with_type(_without_moments(field.type)) for field in table.schema])
    return table if table is not None and _lossless(table) else None


def _objects(data: bytes) -> int | None:
    """Return the number of lines that are not blank; None if Arrow's parser must not get them.

    That parser crashes at thousands of nested levels, takes a null for a row without values, and does not check that text is
    UTF-8.
    """
    if b"\0" in data:
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    brackets = data.translate(None, _NO_BRACKETS).split(b"\n")
    if any(len(line) > OPENINGS for line in brackets) and any(map(too_deep, data.split(b"\n"))):
        return None
    if data.endswith(b"\n"):
        brackets.pop()
    if all(line.startswith(b"{") for line in brackets):
        return len(brackets)
    lines = [line for line in map(bytes.lstrip, data.split(b"\n")) if line]
    return len(lines) if all(line.startswith(b"{") for line in lines) else None


def _read(data: bytes, known: list[pa.Field[Any]]) -> pa.Table | None:
    reading = pj.ReadOptions(use_threads=False, block_size=len(data) + 16)
    parsing = pj.ParseOptions(explicit_schema=pa.schema(known) if known else None, newlines_in_values=False)
    try:
        table = pj.read_json(cast(IO[bytes], pa.BufferReader(data)), read_options=reading, parse_options=parsing)
        table.validate(full=True)  # Arrow 26 counts nulls one after the other in a list as one
    except pa.ArrowException:
        return None
    return table


def _without_moments(kind: Type) -> Type:
    """Return the type with text in place of timestamps, which Arrow sees in `2024-01-31`."""
    if kinds.is_timestamp(kind):
        return pa.string()
    if kinds.is_struct(kind):
        return pa.struct([field.with_type(_without_moments(field.type)) for field in kind])
    return pa.list_(_without_moments(kind.value_type)) if kinds.is_list(kind) else kind


def _lossless(table: pa.Table) -> bool:
    """Whether no float is so large that it may stand for a whole number."""
    columns: list[Any] = [chunk for column in table.columns for chunk in column.chunks]
    while columns:
        values = columns.pop()
        if kinds.is_struct(values.type):
            columns += values.flatten()
        elif kinds.is_list(values.type):
            columns.append(values.flatten())
        elif kinds.is_floating(values.type):
            least, most = (found.as_py() for found in pc.min_max(values).values())
            if least is not None and (least <= -MOST_EXACT or most >= MOST_EXACT):
                return False
    return True
