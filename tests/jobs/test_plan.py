"""A plan says what the job then takes: its figures are held against a run of the same command line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.cli import main
from jobs.options.keys import keys
from pipeline.engine.calibration import bench, beside, measure, timing
from pipeline.output.record.prediction import Prediction, read_prediction
from pipeline.run.config import PlanConfig, PlanScoreConfig
from pipeline.store.local import LocalStore
from pipeline.user_cache import VARIABLE
from pipeline.work.config import GenerateConfig
from pipeline.work.score.config import ScoreConfig
from tests.small_runs import INLINE, MODEL, REPOSITORY, manifest, overrides, prompts, write

ROWS = 40
FIXED = ("sampling.ignore_eos=true", "sampling.n=2", "output.rows_per_shard=16")


@dataclass
class Planned:
    """A plan, the run of the same command line, and what was printed."""

    source: Path
    output: Path
    body: dict[str, Any]
    errors: str
    left: list[Path]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache that the module's plans share, and as few repetitions as there can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("cache")))
        patch.setattr(timing, "_MOST", 1)
        patch.setattr(beside, "_TIMES", 1)
        patch.setattr(measure, "resident_bytes", lambda: 600 << 20)  # not what other tests have left in this process
        patch.setattr(bench, "DECODES", (1, 8))
        patch.setattr(measure, "waited_seconds", lambda: 0.0)  # whatever else runs on the machine
        yield


Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(cache: None, capsys: pytest.CaptureFixture[str], planned: Planned) -> Plan:
    """Plan with some overrides; return the exit code and what was printed."""

    def made(*more: str, source: Path | str = planned.source, output: Path | str = "none") -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["plan", *overrides(source, output, *INLINE, "sampling.ignore_eos=true", *more)])
        return (code, *capsys.readouterr())

    return made


@pytest.fixture(scope="module")
def planned(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Plan and run one job."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("planned")
    source, output = write(prompts(ROWS), folder / "in.parquet", row_group_size=9), folder / "out"
    words = overrides(source, output, *INLINE, *FIXED)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["plan", *words, "json=true"]) == 0
    left = list(folder.iterdir())
    assert main(["generate", *words]) == 0
    return Planned(source, output, json.loads(out.getvalue()), err.getvalue(), left)


def test_tokens_rows_and_errors_are_those_of_the_run(planned: Planned) -> None:
    totals, predicted = manifest(planned.output)["totals"], planned.body["prediction"]
    assert planned.body["plan_id"] == manifest(planned.output)["plan_id"]
    assert (planned.body["rows"], planned.body["parts"]) == (ROWS, 3)
    assert predicted["completion_tokens"] == totals["completion_tokens"]
    assert predicted["prompt_tokens"] == totals["prompt_tokens"]
    assert {code: 2 * n for code, n in planned.body["errors"].items()} == totals["errors"]
    assert predicted["error_rows"] == 2 and not planned.body["upper_bound"]


def test_the_size_of_the_output_is_close(planned: Planned) -> None:
    size = sum(p.stat().st_size for p in (planned.output / "data").iterdir())
    assert planned.body["prediction"]["output_bytes"] == pytest.approx(size, rel=0.2)


def test_the_engine_plans_as_predicted(planned: Planned) -> None:
    environment, predicted = manifest(planned.output)["environment"], planned.body["prediction"]
    assert predicted["sequences"] == environment["max_num_seqs"]
    assert predicted["replicas"] == environment["replicas"]
    parts = [planned.body["process_bytes"], *(predicted[f"{n}_bytes"] for n in ("weight", "cache", "activation"))]
    assert predicted["memory_bytes"] == sum(parts) and min(parts) > 0
    assert predicted["seconds"] == pytest.approx(planned.body["time"]["total"]) and predicted["tokens_per_second"] > 0
    assert predicted["limit_tokens_per_second"] > 0


def test_nothing_is_left_but_the_calibration_which_is_told(planned: Planned) -> None:
    assert planned.left == [planned.source]
    assert (
        "no calibration of this model on this machine yet: timing one with random weights, 4 of 4 layers"
        in planned.errors
    )


def test_the_run_has_the_prediction(planned: Planned) -> None:
    found = read_prediction(LocalStore(planned.output))
    assert isinstance(found, Prediction)
    asked = planned.body["prediction"]
    for name in ("rows", "error_rows", "prompt_tokens", "completion_tokens", "replicas", "weight_bytes", "sequences"):
        assert getattr(found, name) == asked[name], name
    assert found.seconds is not None and found.memory_bytes is not None


def test_what_people_see(plan: Plan, planned: Planned) -> None:
    code, out, err = plan("price_per_hour=3600", *FIXED, output=planned.output)
    assert code == 0 and "calibration" not in err
    shown = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    assert shown["input"] == "1 file, 40 rows" and shown["sample"] == "all rows"
    assert shown["errors"] == "1 NULL_PROMPT, 1 EMPTY_PROMPT"
    assert shown["parts"] == "3 of 16 rows at most, 3 committed already"
    assert shown["replicas"] == "1 replica, 1 thread each"
    assert "KV cache" in shown["memory"] and "known from before" in shown["measured"]
    assert "at 3600 per hour and machine" in shown["cost"]
    assert out.endswith("nothing was started, and nothing was written to the output\n")


def test_it_knows_how_completions_ended_after_a_run(plan: Plan, planned: Planned, tmp_path: Path) -> None:
    words = overrides(planned.source, tmp_path / "out", *INLINE, "sampling.temperature=0.8", "sampling.max_tokens=60")
    assert main(["plan", *words, "json=true"]) == 0
    before = plan("sampling.ignore_eos=false", "sampling.temperature=0.8", "sampling.max_tokens=60", "json=true")
    assert json.loads(before[1])["upper_bound"] is True
    assert main(["generate", *words]) == 0
    after = json.loads(
        plan("sampling.ignore_eos=false", "sampling.temperature=0.8", "sampling.max_tokens=60", "json=true")[1]
    )
    real = manifest(tmp_path / "out")["totals"]["completion_tokens"]
    assert after["upper_bound"] is False
    assert after["prediction"]["completion_tokens"] == pytest.approx(real, rel=0.25)
    assert after["prediction"]["completion_tokens"] < json.loads(before[1])["prediction"]["completion_tokens"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("engine.max_model_len=20",), "the context of 20 tokens is too small for"),
        (("engine.max_model_len=40", "source.on_long_prompt=truncate_left"), "which lose their beginning"),
        (("sampling.max_tokens=255",), "is clamped for 37 rows"),
        (("max_error_rate=0.01",), "more than max_error_rate=0.01 allows: exit code 3"),
        (("output.allow_unsafe_store=true",), "two drivers or a late replica may replace each other's parts"),
        (("sampling.n=2", "sampling.temperature=0"), "always takes the most likely token"),
    ],
)
def test_a_risk_is_told(more: tuple[str, ...], told: str, plan: Plan) -> None:
    code, out, _ = plan(*more)
    assert code == 0
    assert any(told in line for line in out.splitlines() if line.startswith("  warning")), out


def test_memory_and_disk_that_do_not_suffice(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.run.foresee.available_bytes", lambda: 400 << 20)
    monkeypatch.setattr("pipeline.work.estimate.risks._free_disk", lambda path: 10)
    code, out, _ = plan("output.path=x", "output.path=y")
    assert code == 0 and "1 replica on one machine need" in out and "10 KiB" not in out
    assert "the job will stop when the disk is full" in out
    monkeypatch.setattr("pipeline.run.foresee.available_bytes", lambda: 1 << 20)
    assert "lower engine.max_model_len" in plan()[1]


def test_another_plan_in_the_folder_is_told(plan: Plan, planned: Planned) -> None:
    code, out, _ = plan("sampling.n=3", output=planned.output)
    assert code == 0 and "the output folder holds another plan" in out and "sampling.n: 2 → 3" in out


def test_an_input_without_rows(plan: Plan, tmp_path: Path) -> None:
    source = write({"prompt": pa.array([], pa.string())}, tmp_path / "none.parquet")
    code, out, _ = plan(source=source)
    assert code == 0 and "1 file, 0 rows" in out


def test_errors_only(plan: Plan, tmp_path: Path) -> None:
    source = write({"prompt": pa.array([None, None], pa.string())}, tmp_path / "nulls.parquet")
    code, out, _ = plan(source=source)
    assert code == 0 and "2 NULL_PROMPT" in out and "none without an error" in out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("price_per_hour=-1",), "price_per_hour=-1.0: must be null or a price from 0"),
        (("price_per_hour=nan",), "price_per_hour=nan: must be null or a price from 0"),
        (("price_per_hour=much",), "price_per_hour=much: must be null or a number"),
        (("json=maybe",), "json=maybe: must be true or false"),
        (("price_per_our=1",), "price_per_our: no such key; did you mean price_per_hour?"),
        (("job=verify",), "job='verify': must be generate or score"),
        (("sampling.n=0",), "sampling.n=0: must be from 1 to 1000000"),
    ],
)
def test_mistakes(more: tuple[str, ...], told: str, plan: Plan) -> None:
    code, out, err = plan(*more)
    assert (code, out) == (2, "") and err.strip().splitlines()[-1].removeprefix("promptmill: ").startswith(told)


def test_it_takes_what_generate_takes() -> None:
    assert keys(PlanConfig).keys() - keys(GenerateConfig).keys() == {"job", "price_per_hour", "json"}
    assert keys(PlanScoreConfig).keys() - keys(ScoreConfig).keys() == {"job", "price_per_hour", "json"}
    for planned, job in (("plan", "generate"), ("plan_score", "score")):
        presets = [(REPOSITORY / "conf" / f"{name}.yaml").read_text().partition("\n")[2] for name in (planned, job)]
        assert presets[0].replace(f"{planned}_schema", f"{job}_schema") == presets[1]
    assert main(["plan", "experiment=demo", "--cfg", "job"]) == 0


def test_the_help_is_quick_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; from jobs.cli import main; code = main(['plan', '--help']);"
        "sys.exit(f'imported {heavy}' if (heavy := {'ray', 'torch', 'pyarrow'} & set(sys.modules)) else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "price_per_hour" in done.stdout and MODEL.exists()


def test_the_import_of_the_libraries_is_a_part_of_the_start(source: Path, tmp_path: Path) -> None:
    """In a process of its own, as here they have been imported."""
    command = [sys.executable, "-m", "jobs", "plan", f"model.path={MODEL}", f"source.path={source}", "cluster=inline",
               f"output.path={tmp_path / 'out'}", "engine.max_num_seqs=2", "json=true"]  # fmt: skip
    environment = {**os.environ, "PROMPTMILL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["time"]["start"] > 0.1, "of the processor; no machine imports torch in less"


DRAW = random.Random(1)
TEXTS = [" ".join("".join(DRAW.choices("aeiknorst", k=5)) for _ in range(1 + 7 * i % 60)) for i in range(50)]


@pytest.mark.parametrize(
    "words",
    [
        (), ("score.stride=40", "engine.max_model_len=64"), ("score.concatenate=true", "score.stride=100", "score.bos=true"),
        ("source.endings_column=ends", "output.rows_per_shard=20"),
    ],
)  # fmt: skip
def test_a_job_that_scores(words: tuple[str, ...], cache: None, tmp_path: Path, capsys: Any) -> None:
    rows = {"text": [*TEXTS, None], "ends": [["a cat", "rain in town", "soup"][: 1 + i % 3] for i in range(51)]}
    source, output = write(rows, tmp_path / "in.parquet"), tmp_path / "out"
    given = (
        f"model.path={MODEL}", f"source.path={source}", f"output.path={output}", "source.prompt_column=text", *INLINE, *words
    )  # fmt: skip
    assert main(["plan", "job=score", *given, "json=true"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert main(["score", *given, "output.report=false"]) == 0
    made, predicted, stored = manifest(output), body["prediction"], read_prediction(LocalStore(output))
    assert (body["plan_id"], body["errors"]) == (made["plan_id"], made["totals"]["errors"]) and not body["upper_bound"]
    assert predicted["completion_tokens"] == made["totals"]["sums"]["scored_tokens"]
    assert predicted["prompt_tokens"] == made["totals"]["prompt_tokens"] and body["clamped_rows"] == 0
    assert predicted["output_bytes"] == pytest.approx(
        sum(p.stat().st_size for p in (output / "data").iterdir()), rel=0.25
    )
    assert stored is not None and stored.completion_tokens == predicted["completion_tokens"] and stored.seconds
    capsys.readouterr()
    assert main(["plan", "job=score", *given]) == 0
    shown = capsys.readouterr().out
    assert f"{predicted['completion_tokens']:,} scored" in shown and "to score" in shown and "generate" not in shown
