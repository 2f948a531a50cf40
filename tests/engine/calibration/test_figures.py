"""The time of a step follows from measured points; a calibration comes back from its text as it was."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from pipeline.engine.cache.memory import Needs
from pipeline.engine.calibration.figures import Beside, Calibration, StepTimes, Work, at

CALIBRATION = Calibration(
    layers=12, measured=6, took=3.0, busy=0.01,
    times=StepTimes(((1.0, 0.02), (8.0, 0.03), (64.0, 0.1)), ((2.0, 0.02), (256.0, 0.3)), 1e-6, 1e-7, 32, 1e-5),
    beside=Beside(step=1e-3, token=1e-4, request=1e-2), importing=2.0, packing=1.0, taking=1e-9, process=10**8,
    weights=10**8, transient=10**7, step=((1.0, 10.0), (64.0, 640.0)),
    needs=Needs(most=128, most_tokens=256, block_bytes=4096, sequence_bytes=100, token_bytes=10), flops=1e11,
    bandwidth=1e10, token_flops=1e8, output_flops=1e7, streamed=10**8, most_scored=300,
)  # fmt: skip
TIMES = asdict(CALIBRATION.times)


@pytest.mark.parametrize("x", [1, 3, 8, 30, 64])
def test_between_points_it_is_interpolated(x: float) -> None:
    xs, ys = zip(*CALIBRATION.times.decode, strict=True)
    assert at(CALIBRATION.times.decode, x) == pytest.approx(float(np.interp(x, xs, ys)))


def test_beyond_the_points_it_goes_on() -> None:
    assert at(CALIBRATION.times.decode, 0.5) == 0.02
    assert at(CALIBRATION.times.decode, 120) == pytest.approx(0.17)
    assert at(((1.0, 2.0), (2.0, 1.0)), 10) == 0
    assert at(((5.0, 2.0),), 10) == 2.0


def test_a_step_takes_what_its_work_takes() -> None:
    alone = CALIBRATION.seconds(Work(8, 8 * 32, 0, 0, 8))
    assert alone == pytest.approx(0.03 + 1e-3 + 8e-4)
    longer = CALIBRATION.seconds(Work(8, 8 * 132, 0, 0, 8))
    assert longer - alone == pytest.approx(800e-6)
    reading = CALIBRATION.seconds(Work(8, 8 * 32, 64, 0, 8))
    xs, ys = zip(*CALIBRATION.times.read, strict=True)
    assert reading - alone == pytest.approx(float(np.interp(72, xs, ys) - np.interp(8, xs, ys)))
    assert CALIBRATION.seconds(Work(0, 0, 256, 256 * 100, 0)) == pytest.approx(0.3 + 1e-3 + 256 * 100 * 1e-7)
    begun = CALIBRATION.seconds(Work(8, 8 * 32, 0, 0, 8, begun=3))
    assert begun - alone == pytest.approx(3e-2)
    scored = CALIBRATION.seconds(Work(0, 0, 256, 0, 0, scored=250))
    assert scored == pytest.approx(0.3 + 1e-3 + 250 * (1e-5 + 1e-4))


def test_more_layers_take_more() -> None:
    times = CALIBRATION.times
    fewer = replace(times, decode=tuple((x, y / 2) for x, y in times.decode), read_position=times.read_position / 2)
    deeper = times.deeper(fewer, 3)
    assert deeper.decode == pytest.approx(np.array(times.decode) * [1, 2.5])
    assert (deeper.read, deeper.decode_position, deeper.scored) == (times.read, times.decode_position, times.scored)
    assert deeper.read_position == pytest.approx(2.5 * times.read_position)


def test_a_busy_machine_is_noticed() -> None:
    assert not CALIBRATION.disturbed and replace(CALIBRATION, busy=0.3).disturbed


def test_the_limit_is_of_arithmetic_or_of_memory() -> None:
    assert CALIBRATION.limit(Work(1, 10, 0, 0, 1)) == pytest.approx(0.01)  # the weights have to be read
    assert CALIBRATION.limit(Work(64, 10, 64, 0, 64)) == pytest.approx((128 * 1e8 + 64 * 1e7) / 1e11)


def test_it_comes_back_from_its_text() -> None:
    assert Calibration.from_json(CALIBRATION.to_json()) == CALIBRATION


@pytest.mark.parametrize(
    "wrong",
    [
        {"times": {**TIMES, "decode": []}}, {"times": {**TIMES, "decode": [[1.0]]}},
        {"times": {**TIMES, "read": [[2.0, 1.0], [1.0, 1.0]]}}, {"flops": 0.0}, {"layers": "x"},
        {"needs": {}}, {"more": 1},
    ],
)  # fmt: skip
def test_what_is_no_calibration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Calibration.from_json(json.dumps({**asdict(CALIBRATION), **wrong}))
    assert replace(CALIBRATION, took=1.0) != CALIBRATION
