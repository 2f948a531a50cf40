"""Words of a command line that Hydra's grammar does not take as they are: paths without a key, and texts from data."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from jobs.options.arguments import Arguments
from pipeline.errors import ConfigurationError
from pipeline.wording import override, quoted

_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""", re.DOTALL)


def is_value(word: str) -> bool:
    """Whether a word is a value without a key. A path may have `=` in it, as a folder of a sweep has; a key has no `/`."""
    key, equals, _ = word.partition("=")
    return not word.startswith(("~", "+")) and (not equals or "/" in key)


def placed(arguments: Arguments, keys: Sequence[str], texts: Collection[str] = ()) -> Arguments:
    """Return a command line in Hydra's grammar.

    Args:
        arguments: The command line.
        keys: What words without a key are the values of, in order. A folder is such a word, even if its name
            looks like an override.
        texts: Keys whose values are texts as they stand, whatever is in them, unless they are quoted as a whole.

    Raises:
        ConfigurationError: If there are more words than keys, or a key has a value already.
    """
    free = [key for key in keys if not any(word.startswith(f"{key}=") for word in arguments.overrides)]
    made = []
    for word in arguments.overrides:
        key, _, value = word.partition("=")
        if is_value(word) or (free and os.path.isdir(word)):  # noqa: PTH112 - a word may be too long for a path
            if not free:
                raise ConfigurationError(
                    f"{word}: not KEY=VALUE; "
                    + (" and ".join(keys) + (" are" if len(keys) > 1 else " is") + " given already")
                )
            made.append(override(free.pop(0), word))
        elif key in texts and not _QUOTED.fullmatch(value):
            made.append(f"{key}={quoted(value)}" if value not in ("null", "???") else word)
        else:
            made.append(word)
    return replace(arguments, overrides=tuple(made))
