from __future__ import annotations

import pytest

from benchmarks.parts.arithmetic import Sizes, kv_bytes, weight_bytes
from benchmarks.parts.table import SHARE_TARGETS, TARGETS, Run, against, render

SIZES = {"body": 1000, "head": 100, "others": 10, "kv_values": 8}


def limit(measurement: str, rate: float = 2.2e6, step: float = 0.5) -> Run:
    one = {"rate": rate, "product": "plain", "step_seconds": step, "step_product": "packed"}
    figures = {"rows": 4, "sizes": SIZES, "float32": one, "int8": one | {"rate": 2 * rate}}
    return {"measurement": measurement, "line": "limit", "engine": "limit", "precision": "", "figures": figures}


def run(measurement: str, line: str, engine: str, precision: str, tok_s: float, **more: object) -> Run:
    figures = {
        "tok_s": tok_s,
        "seconds": 10 / tok_s,
        "tokens": 10,
        "prompt_tokens": 22,
        "requests": 2,
        "batch": 4,
        **more,
    }
    return {"measurement": measurement, "line": line, "engine": engine, "precision": precision, "figures": figures}


def ours(measurement: str, float32: float, int8: float) -> list[Run]:
    return [
        run(measurement, "promptmill float32", "promptmill", "float32", float32),
        run(measurement, "promptmill int8", "promptmill", "int8", int8),
    ]


def table(runs: list[Run]) -> dict[str, list[str]]:
    """(measurement: engine) → the other cells."""
    result = {
        "model": "m", "date": "today", "absent": ["vllm"], "runs": runs,
        "machine": {"processor": "p", "cores": 2, "memory_gib": 1},
    }  # fmt: skip
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in render([result]).splitlines() if line[:1] == "|"
    ]
    assert len({len(row) for row in cells}) == 1  # every row has the columns of the head
    return {f"{row[0]}: {row[1]}": row[2:] for row in cells[2:]}


def test_the_median_counts_and_every_run_is_shown() -> None:
    runs = [run("uniform", "promptmill float32", "promptmill", "float32", v) for v in (30.0, 10.0, 20.0)]
    assert table(runs)["uniform: promptmill float32"][:2] == ["20.0", "30.0, 10.0, 20.0"]


def test_ratios_are_of_medians_with_their_targets() -> None:
    runs = [*ours("uniform", 24.0, 54.0), run("uniform", "hf", "transformers", "float32", 10.0)]
    assert table(runs)["uniform: hf"][-2:] == ["2.40 × (≥ 2.4: met)", "5.40 × (≥ 5.5: **not met**)"]


def test_openvino_is_held_to_the_same_precision_and_its_fastest_setting() -> None:
    runs = [
        *ours("mixed", 16.0, 25.0),
        run("mixed", "ov", "openvino", "float32", 10.0),
        run("mixed", "slow", "openvino", "int8", 12.5),
        run("mixed", "fast", "openvino", "int8", 20.0),
    ]
    found = table(runs)
    assert found["mixed: ov"][-2:] == ["1.60 × (≥ 1.6: met)", "2.50 ×"]
    assert found["mixed: slow"][-2:] == ["1.28 ×", "2.00 ×"]
    assert found["mixed: fast"][-2:] == ["0.80 ×", "1.25 × (≥ 1.25: met)"]


def test_shares_of_the_limit() -> None:
    runs = [
        limit("uniform"),
        limit("uniform", rate=4.4e6),
        limit("uniform", rate=2.2e6),
        *ours("uniform", 250.0, 250.0),
    ]
    found = table(runs)
    # 250 tok/s of 2.2e6 / 2200 = 1000; 2·1000·30 + 2·100·10 operations in 0.04 s are 1.55e6 of 2.2e6 a second
    assert found["uniform: promptmill float32"][2:4] == ["25 %", "70 %"]
    assert found["uniform: promptmill int8"][2:4] == ["12 %", "35 %"]


def test_prefill_counts_prompt_tokens() -> None:
    figures = {"seconds": 0.1, "tokens": 2, "prompt_tokens": 64, "requests": 2}
    runs = [limit("prefill"), run("prefill", "promptmill float32", "promptmill", "float32", 20.0, **figures)]
    # 640 tok/s; 2·1000·64 + 2·100·2 operations in 0.1 s are 1.284e6 of 2.2e6 a second
    assert table(runs)["prefill: promptmill float32"] == ["640.0", "640.0", "", "58 % (≥ 75 %: **not met**)", "", ""]


def test_decode_is_held_against_the_products_of_as_many_rows() -> None:
    steps = [
        run("decode", "promptmill float32", "promptmill", "float32", 1.0, full_step_seconds=s) for s in (0.625, 9, 0.1)
    ]
    found = table([limit("decode"), *steps])
    assert found["decode, 4 sequences: promptmill float32"][:4] == ["6.4", "6.4, 0.4, 40.0", "", "80 % (≥ 65 %: met)"]


def test_memory_is_what_is_over_weights_keys_and_values() -> None:
    sizes, lengths = Sizes(**SIZES), [5, 9, 7]
    known = weight_bytes(sizes, "float32") + kv_bytes(sizes, lengths, 4)
    runs = [
        limit("uniform"),
        run("uniform", "promptmill float32", "promptmill", "float32", 1.0, peak_bytes=known + 1.25e9, lengths=lengths),
    ]
    assert table(runs)["memory, uniform: promptmill float32"][0] == "1.25 GB (≤ 1 GB: **not met**)"


def test_without_a_limit_there_are_no_shares() -> None:
    assert table(ours("uniform", 1.0, 2.0))["uniform: promptmill int8"][2:4] == ["", ""]


def test_what_failed_or_is_absent_is_named() -> None:
    bad = {
        "measurement": "uniform",
        "line": "vLLM",
        "engine": "vllm",
        "precision": "float32",
        "error": "exit code 1: no ninja",
    }
    one = {"model": "m", "date": "d", "machine": {"processor": "p", "cores": 2, "memory_gib": 1}}
    text = render([one | {"absent": ["openvino", "vllm"], "runs": [bad]}, one | {"absent": ["openvino"], "runs": []}])
    assert "Failed: uniform, vLLM: exit code 1: no ninja" in text
    assert "Absent: openvino" in text.splitlines()


@pytest.mark.parametrize(
    ("value", "target", "unit", "most", "text"),
    [
        (1.0, None, "×", False, "1.00 ×"), (0.65, 0.65, "%", False, "65 % (≥ 65 %: met)"),
        (1e9, 1e9, "GB", True, "1.00 GB (≤ 1 GB: met)"),
    ],
)  # fmt: skip
def test_a_target_that_is_reached_exactly_is_met(value: float, target: float, unit: str, most: bool, text: str) -> None:
    assert against(value, target, unit, most=most) == text


def test_every_workload_has_targets_against_the_same_peers() -> None:
    assert {name for name, _ in TARGETS} == {"uniform", "mixed"}
    assert {peer for _, peer in TARGETS} == {"transformers", "vllm", "openvino"}
    assert set(SHARE_TARGETS) == {"prefill", "decode"}


def test_promptmills_fastest_line_counts() -> None:
    runs = [
        *ours("mixed", 16.0, 25.0), run("mixed", "promptmill int8, half", "promptmill", "int8", 30.0),
        run("mixed", "ov", "openvino", "int8", 20.0),
    ]  # fmt: skip
    found = table(runs)
    assert found["mixed: ov"][-1] == "1.50 × (≥ 1.25: met)"
    assert found["mixed: promptmill int8"][-1] == "1.20 ×" and found["mixed: promptmill int8, half"][-1] == ""


def test_few_shot_is_held_to_the_fastest_peer_of_the_same_precision() -> None:
    runs = [
        *ours("few_shot", 15.0, 30.0), run("few_shot", "hf", "transformers", "float32", 5.0),
        run("few_shot", "vllm", "vllm", "float32", 10.0), run("few_shot", "ov", "openvino", "int8", 24.0),
    ]  # fmt: skip
    found = table(runs)
    assert found["few_shot: vllm"][-2:] == ["1.50 × (≥ 1.5: met)", "3.00 ×"]
    assert found["few_shot: ov"][-2:] == ["0.62 ×", "1.25 × (≥ 1.5: **not met**)"]
    assert found["few_shot: hf"][-2:] == ["3.00 ×", "6.00 ×"]


def test_what_is_shared_counts_once_and_each_completion_ends_once() -> None:
    figures = {"seconds": 0.04, "tokens": 10, "prompt_tokens": 22, "requests": 2}
    shared = {**figures, "distinct_prompt_tokens": 14, "completions": 4}
    runs = [limit("samples"), run("samples", "promptmill float32", "promptmill", "float32", 250.0, **shared)]
    # 2·1000·(14 + 10 - 4) + 2·100·10 operations in 0.04 s are 1.05e6 of 2.2e6 a second
    assert table(runs)["samples: promptmill float32"][3] == "48 %"


def test_perplexities_stand_beside_the_speeds_and_those_that_lack_are_named() -> None:
    runs = [*ours("uniform", 15.0, 30.0), run("uniform", "ov", "openvino", "int8", 24.0)]
    machine = {"processor": "p", "cores": 2, "memory_gib": 1, "caps": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}
    result = {"model": "m", "date": "d", "machine": machine, "absent": [], "runs": runs}
    quality = {
        "model": "small",
        "text": "a book",
        "perplexity": {"promptmill int8": 20.125, "promptmill float32": 20.0},
    }
    found = render([result], quality).splitlines()
    place = found.index("Perplexity of small on a book:")
    assert found[place + 2 : place + 5] == [
        "- promptmill float32: 20.0000", "- promptmill int8: 20.1250",
        "- not known, so not compared at equal quality: ov",
    ]  # fmt: skip
    assert "held to ONEDNN_MAX_CPU_ISA=AVX2" in found
    assert "not compared at equal quality: promptmill int8; ov" in render([result])
