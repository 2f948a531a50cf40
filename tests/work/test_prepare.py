from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.engine import own
from pipeline.engine.config import EngineConfig, StatsConfig
from pipeline.errors import InputRefused, ModelRefused, PlanRefused, Refused
from pipeline.work.config import ClusterConfig, GenerateConfig
from pipeline.work.prepare import Prepared, prepare
from pipeline.work.sampling import SamplingConfig
from tests.small_runs import MODEL, configured, write


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write({"prompt": ["a", "b", "c"], "text": ["x", "y", "z"], "n": [1, 2, 3]}, tmp_path / "in/a.parquet")
    return tmp_path


def config(**sections: Any) -> GenerateConfig:
    return configured("in/a.parquet", "out", **sections)


ON_GPU = ClusterConfig(gpus_per_replica=1)


def plan_id(**sections: Any) -> str:
    return prepare(config(**sections)).job.plan.plan_id


def test_plans_and_writes_nothing(place: Path) -> None:
    before = sorted(place.rglob("*"))
    prepared = prepare(config(output={"rows_per_shard": 2}, source={"keep_columns": ["n"]}))
    assert (prepared.job.plan.rows, prepared.job.plan.shard_count) == (3, 2)
    assert prepared.job.schema.field("n").type == pa.int64()
    assert prepared.weight_bytes == (MODEL / "model.safetensors").stat().st_size
    assert sorted(place.rglob("*")) == before
    json.dumps(prepared.job.plan.fingerprint)


@pytest.mark.parametrize(
    ("sections", "kind", "words"),
    [
        ({"source": {"path": "nowhere"}}, InputRefused, ["source.path", "nowhere"]),
        ({"source": {"path": "empty"}}, InputRefused, ["empty", "no Parquet files"]),
        ({"source": {"prompt_column": "promt"}}, InputRefused, ["'promt'", "prompt (string)", "did you mean"]),
        ({"source": {"prompt_column": "n"}}, InputRefused, ["'n'", "int64"]),
        ({"source": {"keep_columns": ["text"]}}, InputRefused, ["text"]),
        ({"source": {"keep_columns": ["x"]}}, InputRefused, ["source.keep_columns", "'x'"]),
        ({"source": {"template": "{{ promt }}"}}, InputRefused, ["promt"]),
        ({"source": {"template": "{{ prompt"}}, Refused, ["source.template"]),
        ({"source": {"id_column": "no"}}, InputRefused, ["source.id_column", "'no'"]),
        ({"model": {"path": "/no/model"}}, ModelRefused, ["model.path=/no/model"]),
        ({"model": {"tokenizer": "/no/tokenizer"}}, ModelRefused, ["model.tokenizer=/no/tokenizer"]),
        ({"sampling": SamplingConfig(stop_token_ids=[5000])}, Refused, ["sampling.stop_token_ids", "5000", "0 to 1023"]),
        ({"sampling": SamplingConfig(logit_bias={5000: 1})}, Refused, ["sampling.logit_bias", "5000", "0 to 1023"]),
        ({"sampling": SamplingConfig(regex="(a")}, Refused, ["sampling.regex=(a: unclosed group"]),
        ({"sampling": SamplingConfig(json_schema={"type": "x"})}, Refused, ["sampling.json_schema: Invalid type: x"]),
        ({"engine": EngineConfig(max_model_len=5000)}, ModelRefused, ["engine.max_model_len=5000", "256"]),
        ({"source": {"path": "in"}, "output": {"path": "in"}}, PlanRefused, ["output.path=in", "input's own folder"]),
        ({"source": {"path": "in"}, "output": {"path": "in/"}}, PlanRefused, ["input's own folder"]),
        ({"source": {"path": "in/../in"}, "output": {"path": "./in"}}, PlanRefused, ["input's own folder"]),
        ({"source": {"path": "in"}, "output": {"path": "link"}}, PlanRefused, ["input's own folder"]),
        ({"source": {"path": "in"}, "output": {"path": "in/out"}}, PlanRefused, ["output.path=in/out", "inside"]),
        ({"source": {"path": "in/*"}, "output": {"path": "in/out"}}, PlanRefused, ["output.path=in/out", "inside"]),
        ({"source": {"path": "in/**/*.parquet"}, "output": {"path": "in/x/out"}}, PlanRefused, ["in/x/out", "inside"]),
        ({"source": {"path": "i?"}, "output": {"path": "in/out"}}, PlanRefused, ["output.path=in/out", "inside"]),
    ],
)  # fmt: skip
def test_refusals_are_one_line(place: Path, sections: dict[str, Any], kind: type[Refused], words: list[str]) -> None:
    (place / "empty").mkdir()
    (place / "link").symlink_to(place / "in")
    with pytest.raises(kind) as raised:
        prepare(config(**sections))
    told = str(raised.value)
    assert raised.value.exit_code == 2
    assert "\n" not in told
    assert [word for word in words if word not in told] == [], told


def test_an_output_beside_its_input_is_fine(place: Path) -> None:
    prepare(config(source={"path": "in"}, output={"path": "in-out"}))
    prepare(config(source={"path": f"file://{place}/in"}, output={"path": f"file://{place}/out"}))
    prepare(config(source={"path": "in/*.parquet"}, output={"path": "in/out"}))


def test_an_output_inside_its_input_is_known_however_it_is_spelled(place: Path) -> None:
    write({"prompt": ["a"]}, place / "my in/a.parquet")
    for source, output in (("my in", f"file://{place}/my%20in/out"), (f"file://{place}/my%20in", "my in/out")):
        with pytest.raises(PlanRefused, match="inside"):
            prepare(config(source={"path": source}, output={"path": output}))
    prepare(config(source={"path": "my in/*"}, output={"path": "my in/_out"}))  # hidden from a glob


@pytest.mark.parametrize(
    "sections",
    [
        {"sampling": SamplingConfig(seed=1)},
        {"sampling": SamplingConfig(stop=["x"])},
        {"sampling": SamplingConfig(logit_bias={3: 1})},
        {"sampling": SamplingConfig(bad_words=["x"])},
        {"sampling": SamplingConfig(regex="x")},
        {"sampling": SamplingConfig(choice=["x"])},
        {"sampling": SamplingConfig(json_schema={})},
        {"stats": StatsConfig(top_logprobs=1)},
        {"stats": StatsConfig(columns=["logprob"])},
        {"source": {"limit": 2}},
        {"source": {"id_column": "n"}},
        {"source": {"keep_columns": ["n"]}},
        {"source": {"on_empty_prompt": "bos"}},
        {"source": {"prompt_column": "text"}},
        {"source": {"template": "{{ prompt }}"}},
        {"output": {"include_prompt": False}},
        {"model": {"dtype": "bfloat16"}},
        {"model": {"kv_cache_dtype": "bfloat16"}},
        {"engine": EngineConfig(max_model_len=100)},
        {"engine": EngineConfig(kernels="none")},
        {"engine": EngineConfig(deterministic=False), "cluster": ON_GPU},
        {"model": {"tf32": True}, "cluster": ON_GPU},
        {"engine": EngineConfig(gpu_kernels="off"), "cluster": ON_GPU},
    ],
)  # fmt: skip
def test_what_decides_the_bytes_is_in_the_id(place: Path, sections: dict[str, Any]) -> None:
    assert plan_id(**sections) != plan_id(**({"cluster": ON_GPU} if "cluster" in sections else {}))


@pytest.mark.parametrize(
    "sections",
    [
        {"engine": EngineConfig(max_num_seqs="3")},
        {"engine": EngineConfig(kernels="native-v3")},
        {"engine": EngineConfig(max_num_seqs="auto")},
        {"engine": EngineConfig(prefix_caching=False)},
        {"engine": EngineConfig(max_num_batched_tokens=64)},
        {"output": {"rows_per_shard": 1}},
        {"output": {"path": "elsewhere"}},
        {"output": {"compression": "none"}},
        {"cluster": ClusterConfig(name="inline")},
        {"cluster": ClusterConfig(replicas="3")},
        {"max_error_rate": 0.1},
        {"deadline": "06:00"},
        {"source": {"path": "in/../in/a.parquet"}},
        {"source": {"prompt_column": "prompt"}},
        {"engine": EngineConfig(deterministic=False)},
        {"engine": EngineConfig(gpu_kernels="off")},
        {"model": {"tf32": True}},
        {"model": {"dtype": "float32"}, "cluster": ON_GPU},
    ],
)  # fmt: skip
def test_what_only_changes_how_fast_or_where_is_not(place: Path, sections: dict[str, Any]) -> None:
    assert plan_id(**sections) == plan_id()


def test_the_order_of_a_schemas_properties_is_in_the_id_and_how_it_was_written_is_not(place: Path) -> None:
    one: dict[str, Any] = {"properties": {"a": {}, "b": {}}}
    other: dict[str, Any] = {"properties": {"b": {}, "a": {}}}
    ids = [plan_id(sampling=SamplingConfig(json_schema=s)) for s in (one, json.dumps(one, indent=2), other)]
    assert ids[0] == ids[1] != ids[2]
    biases: list[dict[Any, float]] = [{3: 1, 20: 2}, {"20": 2.0, "3": 1.0}]
    assert len({plan_id(sampling=SamplingConfig(logit_bias=b)) for b in biases}) == 1


def test_the_caches_type_is_the_models_own_unless_it_is_said(place: Path) -> None:
    half = {"dtype": "bfloat16"}
    assert plan_id(model=half) == plan_id(model={**half, "kv_cache_dtype": "bfloat16"})


def test_a_hundred_thousand_rows(place: Path) -> None:
    ids = [f"row-{i}" for i in range(100_000)]
    write({"id": ids, "prompt": ["The train to"] * len(ids)}, place / "in" / "big.parquet")
    prepared = prepare(config(source={"path": "in/big.parquet", "id_column": "id"}))
    assert (prepared.job.plan.rows, prepared.job.plan.shard_count) == (100_000, 100)


def test_more_alternatives_than_tokens_are_refused(place: Path) -> None:
    few = place / "few"
    shutil.copytree(MODEL, few)
    facts = json.loads((few / "config.json").read_text())
    (few / "config.json").write_text(json.dumps(facts | {"vocab_size": 8}))
    with pytest.raises(Refused, match=r"stats\.top_logprobs=9: the model has 8 tokens"):
        prepare(config(model={"path": str(few)}, stats=StatsConfig(top_logprobs=9)))


def test_the_dtype_is_settled_in_the_plan(place: Path) -> None:
    half = place / "half"
    shutil.copytree(MODEL, half)
    facts = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(facts | {"dtype": "bfloat16"}))
    for gpus, dtype, device in ((0, "float32", "cpu"), (1, "bfloat16", "cuda")):
        asked = config(model={"path": str(half)}, cluster=ClusterConfig(gpus_per_replica=gpus))
        prepared = prepare(asked)
        job = prepared.job
        assert (job.model.dtype, job.device) == (dtype, device)
        assert prepared.job.plan.fingerprint["model"]["dtype"] == dtype


@pytest.mark.parametrize(
    ("saved", "capability", "expected"),
    [
        (None, None, "bfloat16"), (None, (9, 0), "bfloat16"), (None, (7, 5), "float16"), ("float32", (8, 9), "bfloat16"),
        ("float16", (9, 0), "float16"), ("bfloat16", (7, 5), "bfloat16"),
    ],
)  # fmt: skip
def test_what_auto_is_on_a_gpu(
    place: Path, monkeypatch: pytest.MonkeyPatch, saved: str | None, capability: tuple[int, int] | None, expected: str
) -> None:
    shutil.copytree(MODEL, place / "model")
    facts = json.loads((place / "model" / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        facts.pop(name, None)
    (place / "model" / "config.json").write_text(json.dumps(facts | ({"dtype": saved} if saved else {})))
    monkeypatch.setattr(own, "compute_capability", lambda: capability)

    def prepared(begun: Any = None, **model: str) -> Prepared:
        return prepare(config(model={"path": str(place / "model"), **model}, cluster=ON_GPU), begun=begun)

    found = prepared()
    assert found.job.model.dtype == found.job.plan.fingerprint["model"]["dtype"] == expected
    assert found.job.plan.fingerprint["model"]["kv_cache_dtype"] == expected
    assert len(found.notes) == (expected != (saved or "float32"))
    assert all(f"it runs in {expected}; model.dtype=float32 keeps" in note for note in found.notes)
    before = prepared(dtype="float32")
    assert before.notes == ()
    again = prepared(before.job.plan.fingerprint)
    assert again.job.plan.plan_id == before.job.plan.plan_id, "an output that was begun keeps its type"


def test_on_a_processor_an_output_that_was_begun_in_another_type_is_refused_as_ever(place: Path) -> None:
    half = prepare(config(model={"dtype": "bfloat16"}))
    assert prepare(config(), begun=half.job.plan.fingerprint).job.model.dtype == "float32"
