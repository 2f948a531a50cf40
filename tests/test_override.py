from __future__ import annotations

import itertools
import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pipeline.wording import override, quoted

NUMBERS = ["1", "-1", ".5", "1.", "1e3", "1E5", "-1e-3", "1_000", "1_0e2", "0x1f", "nan", "NaN", "inf", "-inf", "+inf"]
WORDS = [
    "",
    " ",
    " a ",
    "true",
    "True",
    "null",
    "NULL",
    "a b",
    "a\nb",
    "a\tb",
    "é",
    "²",
    "١",
    "%",
    "--help",
    "./-/..",
    "a..b",
]
MARKS = ["'", '"', "a'b", 'a"b', 'a\\"b', "\\", "a\\", "a\\\\", "[a]", "{a:1}", "a:b", "a,b", "a=b", "~a", "@a", "f(1)"]
INTERPOLATIONS = ["${x}", "\\${x}", "\\\\${x}", "$x", "$${x}", "${", '"${x}']


def read_by_hydra(word: str) -> object:
    """Return the value that a configuration has after the override."""
    return OmegaConf.create({"value": OverridesParser.create().parse_override(word).value()})["value"]


@pytest.mark.parametrize("value", NUMBERS + WORDS + MARKS + INTERPOLATIONS)
def test_hydra_reads_the_same_text(value: str) -> None:
    assert read_by_hydra(override("source.path", value)) == value
    assert read_by_hydra(f"source.path={quoted(value)}") == value


def test_hydra_reads_any_text() -> None:
    draw = random.Random(0)
    drawn = ("".join(draw.choices("a1e_.-/ \\\"'${},=[]:+~@%()\n\tnN", k=draw.randint(1, 7))) for _ in range(400))
    short = ("".join(letters) for length in (1, 2, 3) for letters in itertools.product("1e_.-0", repeat=length))
    for value in itertools.chain(drawn, short):
        assert read_by_hydra(override("key", value)) == value, override("key", value)


@pytest.mark.parametrize("value", ["prompts.parquet", "in/x.json.gz", "/data/2024-01-01", "0x1f", "e3", "a_1", "nanny"])
def test_a_plain_word_stays_as_it_is(value: str) -> None:
    assert override("source.path", value) == f"source.path={value}"
