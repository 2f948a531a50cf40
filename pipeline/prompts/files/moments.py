"""Moments, durations and times of day as values of Python's own classes, on every machine.

Arrow's conversion depends on what is installed: nanoseconds become values of pandas where it finds pandas, and a time zone one
of pytz where it finds pytz, which computes with moments otherwise than Python does. A prompt must not depend on that.
"""

from __future__ import annotations

import re
from datetime import UTC, timedelta, timezone, tzinfo
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.types as kinds

from pipeline.prompts.files.kinds import Type, is_list, of_parts
from pipeline.wording import brief

_OFFSET = re.compile(r"([+-])([01][0-9]|2[0-3]):([0-5][0-9])")
"""A time zone without a name (https://arrow.apache.org/docs/python/generated/pyarrow.timestamp.html)."""


def plain(kind: Type) -> Type:
    """Return the type that Arrow converts to Python's own classes: microseconds and no time zone, at any depth.

    Python's classes hold nothing finer than microseconds. A moment whose time zone is taken away is one in UTC.
    """
    if kinds.is_timestamp(kind):
        return pa.timestamp("us" if kind.unit == "ns" else kind.unit)
    if kinds.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    return pa.time64("us") if kind == pa.time64("ns") else of_parts(kind, plain)


def holds_zone(kind: Type) -> bool:
    """Whether the values are moments with a time zone, or contain such moments."""
    if kinds.is_timestamp(kind):
        return bool(kind.tz)
    return any(holds_zone(kind.field(i).type) for i in range(kind.num_fields))


def zoned(value: Any, kind: Type) -> Any:
    """Return a Python value of the type `plain(kind)` with the time zones of `kind`.

    Raises:
        ValueError: If this machine does not know a time zone.
        OverflowError: If the local time is beyond the years 1 to 9999.
    """
    if value is None or not holds_zone(kind):
        return value
    if kinds.is_timestamp(kind):
        return value.replace(tzinfo=UTC).astimezone(_zone(kind.tz))
    if kinds.is_struct(kind):
        return {name: zoned(part, kind.field(name).type) for name, part in value.items()}
    if kinds.is_map(kind):
        return [(zoned(key, kind.key_type), zoned(item, kind.item_type)) for key, item in value]
    return [zoned(part, kind.value_type) for part in value] if is_list(kind) else value


@cache
def _zone(name: str) -> tzinfo:
    """Return the time zone of Python that Arrow's name stands for."""
    offset = _OFFSET.fullmatch(name)
    if offset:
        sign, hours, minutes = offset.groups()
        return timezone(timedelta(hours=int(sign + hours), minutes=int(sign + minutes)))
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # not there, not a name, a folder
        raise ValueError(f"unknown time zone {brief(name)}") from error
