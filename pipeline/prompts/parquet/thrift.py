"""Reads and writes Thrift's compact protocol, in which Parquet's footers and page headers are written.

A struct is a dict, field number → (type, value); a list is (type of its elements, values).
"""

from __future__ import annotations

from typing import Any, TypeAlias

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
Struct: TypeAlias = "dict[int, tuple[int, Any]]"

_DEEPEST = 32


class Reader:
    """Reads values from `data`, beginning at `position`.

    Every method raises `IndexError` where the data ends too early, and `ValueError` for what the protocol does not have.
    """

    def __init__(self, data: bytes, position: int = 0) -> None:
        """Begin at `position`, which moves on."""
        self.data, self.position = data, position

    def struct(self, depth: int = 0) -> Struct:
        """Read a struct up to its end."""
        if depth > _DEEPEST:
            raise ValueError("structs nested too deeply")
        fields: Struct = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else _signed(self._varint())
            fields[number] = (kind, kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth))
        return fields

    def skip_binary(self) -> int:
        """Return the place after the byte string that begins here."""
        self._bytes(self._varint())
        return self.position

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (I16, I64):
            return _signed(self._varint())
        if kind == I32:  # of a longer number, Thrift's own readers keep these bits, too
            return _signed(self._varint() & 0xFFFFFFFF)
        if kind in (TRUE, FALSE, BYTE):  # within a list, a truth value has a byte of its own
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (LIST, SET):
            return self._list(depth)
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"a value of type {kind}")

    def _list(self, depth: int) -> tuple[int, list[Any]]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        if size > len(self.data) - self.position:  # each element has a byte at least
            raise IndexError("a list that is longer than the data")
        return kind, [self._value(kind, depth + 1) for _ in range(size)]

    def _byte(self) -> int:
        value = self.data[self.position]
        self.position += 1
        return value

    def _bytes(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise IndexError("a value that is longer than the data")
        value = self.data[self.position : end]
        self.position = end
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")


def write_struct(fields: Struct) -> bytes:
    """Return the bytes of a struct, given as `Reader.struct` returns it."""
    out = bytearray()
    last = 0
    for number, (kind, value) in sorted(fields.items()):
        kind = (TRUE if value else FALSE) if kind in (TRUE, FALSE) else kind
        step = number - last
        out += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + varint(_unsigned(number))
        out += b"" if kind in (TRUE, FALSE) else _written(kind, value)
        last = number
    return bytes(out) + b"\0"


def varint(value: int) -> bytes:
    """Return a non-negative number in groups of seven bits, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _written(kind: int, value: Any) -> bytes:
    if kind in (I16, I32, I64):
        return varint(_unsigned(value))
    if kind in (TRUE, FALSE, BYTE):
        return bytes([value])
    if kind == DOUBLE:
        return bytes(value)
    if kind == BINARY:
        return varint(len(value)) + bytes(value)
    if kind == STRUCT:
        return write_struct(value)
    inner, values = value
    size = len(values)
    head = bytes([size << 4 | inner]) if size < 15 else bytes([15 << 4 | inner]) + varint(size)
    return head + b"".join(_written(inner, v) for v in values)


def _signed(value: int) -> int:
    """Undo the zigzag: 0, -1, 1, -2 … are written as 0, 1, 2, 3 and so on."""
    return value >> 1 ^ -(value & 1)


def _unsigned(value: int) -> int:
    return value << 1 ^ value >> 63
