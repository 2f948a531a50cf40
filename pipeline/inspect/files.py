"""Writes a file that a person asked for: whole or not at all, in place of one that is there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pipeline.errors import ConfigurationError


def check_file(key: str, path: str) -> None:
    """Refuse a file that cannot be written, before long work is done for it.

    Raises:
        ConfigurationError: If its folder cannot be written.
    """
    folder = Path(path).expanduser().absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{key}={path}: nothing can be written in {folder}; name another file")


def put_file(key: str, path: str, data: bytes) -> None:
    """Write a file.

    Args:
        key: The option that names the file, for messages.
        path: The file.
        data: Its content.

    Raises:
        ConfigurationError: If it cannot be written; what was there stays.
    """
    file = Path(path).expanduser().absolute()
    temporary = file.parent / f".promptmill-{secrets.token_hex(8)}.tmp"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(handle, "wb") as opened:
            opened.write(data)
        temporary.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{key}={path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
