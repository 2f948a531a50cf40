"""A calibration knows the sizes of the model that is loaded later, and is kept until machine, code or options change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import native
from pipeline.engine.assembly import needs_of
from pipeline.engine.base import Foreseeable
from pipeline.engine.calibration import bench, beside, drawn, measure, timing
from pipeline.engine.calibration.drawn import held_bytes
from pipeline.engine.calibration.figures import Calibration
from pipeline.engine.calibration.known import CALIBRATIONS, Endings, keep_endings, key_of_endings, known_endings
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.load import load_model
from pipeline.engine.registry import open_backend
from pipeline.types import SamplingParams
from pipeline.user_cache import VARIABLE
from tests.small_runs import MODEL

SAMPLING = SamplingParams()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and as few repetitions as there can be."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "_MOST", 1)
    monkeypatch.setattr(beside, "_TIMES", 1)
    monkeypatch.setattr(bench, "DECODES", (1, 4))
    monkeypatch.setattr(measure, "waited_seconds", lambda: 0.0)  # whatever else runs on the machine
    return tmp_path / "cache"


def backend(engine: EngineConfig | None = None, **model: Any) -> Foreseeable:
    found: Any = open_backend(
        ModelConfig(**{"path": str(MODEL), "dtype": "float32", **model}), engine or EngineConfig(max_num_seqs="4")
    )
    assert isinstance(found, Foreseeable)
    return found


def calibrated(found: Foreseeable, **changes: Any) -> tuple[Calibration | None, list[tuple[int, int]]]:
    """Return the calibration, and what was told before one was made."""
    told: list[tuple[int, int]] = []
    given = {"stats": StatsConfig(), "sampling": SAMPLING, "threads": 1, **changes}
    return found.calibration(**given, measure=lambda *layers: told.append(layers)), told


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have two layers measured of a model that has more."""
    monkeypatch.setattr(drawn, "_ALL_BYTES", 0)
    monkeypatch.setattr(drawn, "_SOME_BYTES", 1)
    yield


@pytest.mark.parametrize(("quantization", "kernels"), [("none", "auto"), ("int8", "auto"), ("none", "none")])
def test_the_sizes_are_those_of_the_loaded_model(
    quantization: str, kernels: str, short: None, request: pytest.FixtureRequest
) -> None:
    native.use(kernels)
    request.addfinalizer(lambda: native.use("auto"))
    config = ModelConfig(path=str(MODEL), dtype="float32", quantization=quantization)
    real = load_model(resolve(config), config)
    found, told = calibrated(backend(EngineConfig(max_num_seqs="4", kernels=kernels), quantization=quantization))
    assert found is not None and told == [(2, 4)]
    assert (found.layers, found.measured) == (4, 2)
    assert found.weights == pytest.approx(held_bytes(real.model), rel=0.01)
    assert found.needs == needs_of(real)
    shapes = [p.shape for p in load_model(resolve(config), config, plain=True).model.parameters() if p.ndim == 2]
    assert found.token_flops == pytest.approx(
        sum(2 * a * b for a, b in shapes if 1024 not in (a, b) and 256 not in (a,))
    )
    assert [x for x, _ in found.times.decode] == [1, 4] and found.times.decode[0][1] > 0
    assert found.process > 10**7 and found.flops > 0 and found.bandwidth > 0


def test_it_is_measured_once(cache: Path) -> None:
    assert backend().calibration(StatsConfig(), SAMPLING, 1, None) is None
    first, told = calibrated(backend())
    assert told == [(4, 4)] and len(json.loads((cache / CALIBRATIONS).read_text())) == 1
    assert calibrated(backend()) == (first, [])
    other_lengths = replace(SAMPLING, max_tokens=500, seed=3)
    assert calibrated(backend(), sampling=other_lengths) == (first, [])
    assert backend().calibration(StatsConfig(), SAMPLING, 1, None) == first
    for other, changes in (
        (backend(), {"threads": 2}), (backend(), {"stats": StatsConfig(columns=[])}),
        (backend(), {"sampling": replace(SAMPLING, top_k=5)}), (backend(), {"sampling": replace(SAMPLING, stop=("x",))}),
        (backend(), {"scoring": True}), (backend(kv_cache_dtype="int8"), {}),
        (backend(EngineConfig(max_num_seqs="5")), {}), (backend(EngineConfig(kernels="none")), {}),
    ):  # fmt: skip
        asked: dict[str, Any] = {"stats": StatsConfig(), "sampling": SAMPLING, "threads": 1, **changes}
        assert other.calibration(**asked, measure=None) is None


def test_what_is_scored_is_measured_as_such() -> None:
    found, told = calibrated(backend(), scoring=True)
    assert found is not None and told == [(4, 4)]
    assert found.most_scored == 2**26 // (4 * 1024) and found.times.read[-1][0] == 256
    assert calibrated(backend(), scoring=True) == (found, [])


def test_a_disturbed_calibration_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = iter([0.0, 1e6])
    monkeypatch.setattr(measure, "waited_seconds", lambda: next(waited, 1e6))
    first, _ = calibrated(backend())
    assert first is not None and first.disturbed
    assert backend().calibration(StatsConfig(), SAMPLING, 1, None) == first  # better than none
    again, told = calibrated(backend())
    assert told == [(4, 4)] and again is not None and not again.disturbed
    assert calibrated(backend()) == (again, [])


def test_a_grammar_is_followed_while_it_is_measured() -> None:
    found, _ = calibrated(backend(), sampling=replace(SAMPLING, choice=("yes", "no"), stop=("zz",)))
    assert found is not None and found.beside.step >= 0


def test_a_damaged_file_is_as_none(cache: Path) -> None:
    calibrated(backend())
    body = json.loads((cache / CALIBRATIONS).read_text())
    for content in ("", "[]", json.dumps({key: "{}" for key in body}), json.dumps(dict.fromkeys(body, 1))):
        (cache / CALIBRATIONS).write_text(content)
        assert backend().calibration(StatsConfig(), SAMPLING, 1, None) is None


def test_how_completions_ended_is_remembered(cache: Path) -> None:
    key = key_of_endings({"a": "b"}, SAMPLING)
    assert known_endings(key) is None
    keep_endings(key, Endings(1000, 20, 50))
    assert known_endings(key) == Endings(1000, 20, 50)
    assert Endings(1000, 20, 50).chance == 0.02 and Endings(0, 0, 0).chance == 0
    assert key_of_endings({"a": "b"}, replace(SAMPLING, max_tokens=9, seed=5, n=3)) == key
    assert key_of_endings({"a": "c"}, SAMPLING) != key != key_of_endings({"a": "b"}, replace(SAMPLING, stop=("x",)))
    (cache / "endings.json").write_text(json.dumps({key: [1, "x", 2]}))
    assert known_endings(key) is None


@pytest.mark.parametrize("longest", [2, 20, 33, 64, 70])
def test_a_short_context_is_measured_within_it(longest: int) -> None:
    found, _ = calibrated(backend(EngineConfig(max_num_seqs="4", max_model_len=longest)))
    assert found is not None and found.times.read[-1][0] == 256


def test_the_static_engine_is_not_measured() -> None:
    found, told = calibrated(backend(EngineConfig(name="static")))
    assert found is None and told == []
