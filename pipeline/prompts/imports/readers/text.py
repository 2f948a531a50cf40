"""Text files: one prompt a line, or one a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.prompts.imports.chunk import CHUNK_BYTES, MOST_BYTES, OTHER_ENCODING, Bad, Chunk
from pipeline.prompts.imports.inputs import Input
from pipeline.prompts.imports.opened import Opened
from pipeline.prompts.imports.readers.blocks import Block, blocks


def lines(opened: Opened) -> Iterator[Chunk]:
    """Yield the lines of a file as the column `prompt`; blank ones are left out."""
    yield Chunk(_prompts([]), [])
    for block in blocks(opened):
        bad: list[Bad] = []
        found = list(_texts(block, bad))
        yield Chunk(_prompts(found), bad)


def _texts(block: Block, bad: list[Bad]) -> Iterator[str]:
    for number, line in block.lines():
        try:
            yield line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            what = f"is not UTF-8: {error.reason} at byte {error.start + 1}; {OTHER_ENCODING}"
            bad.append((block.place(number), what))


def whole(opened: Opened) -> tuple[str | None, list[Bad]]:
    """Return the text of a file without its last line end, or what is wrong with it."""
    pieces, held = list[bytes](), 0
    while data := opened.read(1 << 20):
        pieces.append(data)
        held += len(data)
        if held > MOST_BYTES:
            return None, [(opened.name, f"has more than {MOST_BYTES >> 20} MiB, which is no prompt")]
    try:
        text = b"".join(pieces).decode()
    except UnicodeDecodeError as error:
        return None, [(opened.name, f"is not UTF-8: {error.reason} at byte {error.start + 1}; {OTHER_ENCODING}")]
    return text.removesuffix("\n").removesuffix("\r"), []


def files(inputs: Sequence[Input], encoding: str | None) -> Iterator[Chunk]:
    """Yield whole files: the columns `file`, its name, and `prompt`, its text."""
    names, texts, bad, held = list[str](), list[str](), list[Bad](), 0
    yield Chunk(_named([], []), [])
    for file in inputs:
        with Opened(file, encoding) as opened:
            text, wrong = whole(opened)
        bad += wrong
        if text is not None:
            names.append(file.name)
            texts.append(text)
            held += len(text)
        if held >= CHUNK_BYTES:
            yield Chunk(_named(names, texts), bad)
            names, texts, bad, held = [], [], [], 0
    yield Chunk(_named(names, texts), bad)


def _prompts(texts: Sequence[str]) -> pa.Table:
    return pa.table({"prompt": pa.array(texts, pa.string())})


def _named(names: Sequence[str], texts: Sequence[str]) -> pa.Table:
    return pa.table({"file": pa.array(names, pa.string()), "prompt": pa.array(texts, pa.string())})
