"""Datasets of the hub, with a library that stands for `datasets`, and with the real one where it is installed."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ConfigurationError, InputRefused
from pipeline.prompts.imports.importing import Imported

ROWS = [{"question": f"{i}?", "messages": [{"role": "user", "content": str(i)}]} for i in range(2500)]


class Streamed:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def with_format(self, kind: str) -> Streamed:
        assert kind == "arrow"
        return self

    def iter(self, batch_size: int) -> Iterator[pa.Table]:
        for start in range(0, len(self._rows), batch_size):
            yield pa.Table.from_pylist(self._rows[start : start + batch_size]).replace_schema_metadata(
                {"huggingface": "{}"}
            )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """What `load_dataset` is asked for."""
    calls: list[tuple[str, Any, dict[str, Any]]] = []

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Streamed:
        calls.append((path, name, options))
        if options["split"] == "tset":
            raise ValueError("Bad split: tset.\nAvailable splits: ['train', 'test']")
        return Streamed(ROWS)

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


@pytest.mark.parametrize(
    ("path", "options", "wanted"),
    [
        ("hf://datasets/openai/gsm8k", {}, ("openai/gsm8k", None)),
        ("hf://datasets/squad", {}, ("squad", None)),
        ("hf://datasets/openai/gsm8k@v1", {}, ("openai/gsm8k", "v1")),
        ("openai/gsm8k", {"format": "hub"}, ("openai/gsm8k", None)),
    ],
)
def test_it_is_streamed(
    path: str, options: dict[str, Any], wanted: tuple[str, str | None], asked: list[Any], read: Callable[..., Any]
) -> None:
    assert read(path, source={"config": "main", "split": "test"}, **options) == ROWS
    assert asked == [(wanted[0], "main", {"split": "test", "revision": wanted[1], "streaming": True})]


def test_the_first_rows_only(asked: list[Any], imported: Callable[..., Imported]) -> None:
    assert imported("hf://datasets/openai/gsm8k", limit=1500).rows == 1500


def test_what_the_library_says_is_one_line(asked: list[Any], read: Callable[..., Any]) -> None:
    with pytest.raises(InputRefused) as refused:
        read("hf://datasets/openai/gsm8k", source={"split": "tset"})
    told = "hf://datasets/openai/gsm8k: split tset: ValueError: Bad split: tset. Available splits: ['train', 'test']"
    assert str(refused.value) == told


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, read: Callable[..., Any]) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputRefused, match=r"is read with datasets, which is not installed: pip install datasets$"):
        read("hf://datasets/openai/gsm8k")


def test_no_json_columns(read: Callable[..., Any]) -> None:
    with pytest.raises(
        ConfigurationError, match="the columns of a hub dataset have one type each already; leave it out"
    ):
        read("hf://datasets/openai/gsm8k", json_columns=["x"])


def test_with_the_real_library(monkeypatch: pytest.MonkeyPatch, read: Callable[..., Any]) -> None:
    datasets = pytest.importorskip("datasets")
    streamed = datasets.Dataset.from_list(ROWS).to_iterable_dataset(num_shards=2)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: streamed)
    assert read("hf://datasets/openai/gsm8k") == ROWS
