"""Reads the words after a job's name: a few flags, and Hydra overrides."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pipeline.errors import ConfigurationError
from pipeline.wording import did_you_mean

# Flag, what it takes, what it does: parsed here, printed by the help page.
FLAGS = (
    ("-h, --help", "this page"),
    ("-m, --multirun", "run every combination of the keys that have several values (KEY=A,B)"),
    ("-c, --cfg job", "print the composed configuration and stop"),
    ("--resolve", "with --cfg: interpolations such as ${now:%Y-%m-%d} resolved"),
    ("-cd, --config-dir DIR", "a folder with presets of your own, laid out as conf/ is"),
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """A job's command line."""

    overrides: tuple[str, ...]
    help: bool = False
    multirun: bool = False
    show_config: bool = False
    resolve: bool = False
    config_dir: str | None = None


class _Parser(argparse.ArgumentParser):
    """An argument parser with our kind of errors: one line, exit code 2. `own` are flags that only this job has."""

    own: Collection[str] = ()

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(_in_our_words(message, self.own))


def _in_our_words(message: str, own: Collection[str]) -> str:
    """Return what is wrong with a flag, and what would be right."""
    if unknown := re.fullmatch("unrecognized arguments: (.*)", message):
        flag = unknown[1].split()[0]
        known = [*(name for names, _ in FLAGS for name in re.findall(r"--[a-z-]+", names)), *own]
        hint = f"{close} " if (close := did_you_mean(flag, known)) else "; "
        return f"{flag}: no such flag{hint}there are {', '.join(known)}; an option is KEY=VALUE, without dashes"
    if "--config-dir" in message:
        return "--config-dir: which folder? write --config-dir DIR, a folder with presets of your own"
    if "--cfg" in message:
        return "--cfg: write --cfg job, which prints the job's configuration and stops"
    return f"{message} (--help shows what there is)"


def _check_flags(flags: Mapping[str, str], words: Sequence[str]) -> None:
    """Refuse a flag beside the key that it stands for: one of the two would be ignored.

    Raises:
        ConfigurationError: At the first of them.
    """
    for flag, override in flags.items():
        key = override.partition("=")[0]
        for word in words:
            if word.lstrip("+").partition("=")[0] == key and word != override:
                raise ConfigurationError(f"{flag} and {word}: give one of them; {flag} is {override}")


def parse(argv: Sequence[str], own: Mapping[str, str] | None = None) -> Arguments:
    """Split a command line into flags and overrides, which may stand in any order.

    Args:
        argv: The words after the job's name.
        own: The job's own flags, each with the override that it stands for.

    Raises:
        ConfigurationError: If a flag is unknown, lacks its value or the flag that it goes with, or excludes an override.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-cd", "--config-dir")
    parser.own = own = own or {}
    for flag, override in own.items():
        parser.add_argument(flag, dest="own", action="append_const", const=override)
    parser.add_argument("overrides", nargs="*")
    found = parser.parse_intermixed_args(list(argv))
    if found.resolve and found.cfg is None:
        raise ConfigurationError("--resolve: goes with --cfg job, which prints the job's configuration and stops")
    meant = (found.own or []) if own else []
    _check_flags({flag: override for flag, override in own.items() if override in meant}, found.overrides)
    return Arguments(
        overrides=(*found.overrides, *meant),
        help=found.help,
        multirun=found.multirun,
        show_config=found.cfg is not None,
        resolve=found.resolve,
        config_dir=found.config_dir,
    )
