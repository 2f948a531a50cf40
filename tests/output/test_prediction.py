"""A prediction comes back as it was stored; the first one stays, and a damaged one is no reason to fail."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.errors import PlanRefused
from pipeline.output.foreign import check_vacant
from pipeline.output.record.prediction import PREDICTION, Prediction, put_prediction, read_prediction
from pipeline.store.local import LocalStore

FULL = Prediction(
    rows=1000, error_rows=3, prompt_tokens=12345, completion_tokens=64000, seconds=12.5, tokens_per_second=6000.5,
    replicas=2, sequences=128, memory_bytes=2**31, weight_bytes=2**29, cache_bytes=2**28, activation_bytes=2**27,
    output_bytes=10**6, limit_tokens_per_second=9000.0,
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")


@pytest.mark.parametrize("prediction", [FULL, Prediction(rows=0, error_rows=0, prompt_tokens=0, completion_tokens=0)])
def test_it_comes_back_as_it_was_stored(store: LocalStore, prediction: Prediction) -> None:
    put_prediction(store, prediction)
    assert read_prediction(store) == prediction
    assert json.loads(store.get(PREDICTION)) == asdict(prediction)


def test_the_first_one_stays(store: LocalStore) -> None:
    put_prediction(store, FULL)
    put_prediction(store, Prediction(rows=1, error_rows=0, prompt_tokens=1, completion_tokens=1))
    assert read_prediction(store) == FULL


def test_an_output_may_have_none(store: LocalStore) -> None:
    assert read_prediction(store) is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[]", b"{}", b'{"rows": 1}', b" " * 70_000,
        json.dumps({**asdict(FULL), "rows": -1}).encode(), json.dumps({**asdict(FULL), "seconds": "1"}).encode(),
        FULL.to_json().replace(b"12.5", b"NaN"),
    ],
)  # fmt: skip
def test_a_damaged_one_is_left_out(store: LocalStore, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store.put(PREDICTION, data)
    with caplog.at_level(logging.WARNING):
        assert read_prediction(store) is None
    assert PREDICTION in caplog.text


def test_the_file_is_ours_in_a_folder_whose_plan_was_lost(store: LocalStore) -> None:
    put_prediction(store, FULL)
    check_vacant(store, "out")
    store.put("_job/predictions.json", b"mine")
    with pytest.raises(PlanRefused, match=r"_job/predictions\.json"):
        check_vacant(store, "out")
