"""A job over conversations: three formats give the same completions, and it resumes and is verified like every job."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from jobs.generate import main
from jobs.import_prompts import main as imports
from jobs.verify import main as verify
from tests.prompts.chat_templates import FAMILIES
from tests.small_runs import INLINE, MODEL, as_bytes, read, write

TALKS: list[Any] = [
    [
        {"role": "user", "content": f"Number {i}?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "So?"},
    ]
    for i in range(6)
]
TALKS[2] = [{"role": "user", "content": None}]
TALKS[4] = None
KEPT = [
    "source.id_column=id",
    "sampling.max_tokens=6",
    "output.messages=true",
    "output.rows_per_shard=2",
    "output.report=false",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a chat template of its own."""
    folder = tmp_path_factory.mktemp("model") / "chatty"
    shutil.copytree(MODEL, folder)
    (folder / "chat_template.jinja").write_text(FAMILIES["smollm2"].template)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = [f"talk-{i}" for i in range(len(TALKS))]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))
    as_json = [None if talk is None else json.dumps(talk) for talk in TALKS]
    as_openai = [None if talk is None else {"model": "m", "messages": talk} for talk in TALKS]
    columns = {"id": ids, "list": pa.array(TALKS, kind), "json": as_json, "openai": as_openai}
    return write(columns, tmp_path_factory.mktemp("in") / "talks.parquet")


def generate(model: Path, source: Path, out: Path, *more: str) -> int:
    return main([f"model.path={model}", f"source.path={source}", f"output.path={out}", *KEPT, *INLINE, *more])


@pytest.fixture(scope="module")
def reference(model: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "reference"
    assert generate(model, source, out, "source.messages_column=list") == 0
    return out


def test_the_rows(reference: Path, model: Path) -> None:
    rows = read(reference).to_pylist()
    inner: Any = AutoTokenizer.from_pretrained(model)
    for row, talk in zip(rows, TALKS, strict=True):
        if row["error_code"] is not None:
            assert row["messages"] is None
            continue
        ids = inner.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        assert row["prompt"] == inner.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        assert row["prompt_tokens"] == len(ids)
        assert row["messages"] == [*talk, {"role": "assistant", "content": row["text"]}]
    assert [row["error_code"] for row in rows] == [None, None, "BAD_TEMPLATE_ROW", None, "NULL_PROMPT", None]


@pytest.mark.parametrize("form", ["json", "openai"])
def test_other_formats_give_the_same(form: str, reference: Path, model: Path, source: Path, tmp_path: Path) -> None:
    assert generate(model, source, tmp_path / "out", f"source.messages_column={form}", "output.rows_per_shard=5") == 0
    assert as_bytes(read(tmp_path / "out")) == as_bytes(read(reference))


def test_an_imported_batch_gives_the_same(reference: Path, model: Path, tmp_path: Path) -> None:
    """OpenAI's batch format through `import`: its ids are the rows' ids."""
    requests = [
        {
            "custom_id": f"talk-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": talk},
        }
        for i, talk in enumerate(TALKS)
        if talk is not None
    ]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    assert imports([str(tmp_path / "batch.jsonl"), str(tmp_path / "batch.parquet")]) == 0
    words = ["source.id_column=custom_id", "source.messages_column=messages"]
    assert generate(model, tmp_path / "batch.parquet", tmp_path / "out", *words) == 0
    rows = read(reference)
    there = [i for i, talk in enumerate(TALKS) if talk is not None]
    assert as_bytes(read(tmp_path / "out")) == as_bytes(rows.take(there))


def test_it_is_verified_and_goes_on_where_it_was(
    reference: Path, model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    assert verify([f"output.path={out}", "replay=6"]) == 0
    assert "6 of 6 output rows are the same" in capsys.readouterr().out
    part = sorted((out / "data").iterdir())[1]
    part.unlink()
    assert generate(model, source, out, "source.messages_column=list") == 0
    assert as_bytes(read(out)) == as_bytes(read(reference))
    table = pq.read_table(part)
    said = [
        None if talk is None else [{"role": "assistant", "content": "else"}] for talk in table["messages"].to_pylist()
    ]
    place = table.schema.get_field_index("messages")
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(said, table.schema.field(place).type)), part
    )
    assert verify([f"output.path={out}"]) == 4
    assert "the last of its messages does not end with its text" in capsys.readouterr().out


def test_readers_of_data_sets_take_the_messages_as_they_are(reference: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(
        "parquet", data_files=[str(p) for p in sorted((reference / "data").iterdir())], split="train"
    )
    told = [talk for talk in rows["messages"] if talk is not None]
    assert all(list(message) == ["role", "content"] for talk in told for message in talk)
    assert all(talk[-1]["role"] == "assistant" for talk in told)


def test_going_on_with_the_last_message_joins_it(model: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "It was"}]
    source = write({"id": ["a"], "m": [json.dumps(talk)]}, tmp_path / "in.parquet")
    words = ["source.messages_column=m", "source.continue_final_message=true"]
    assert generate(model, source, tmp_path / "out", *words) == 0
    (row,) = read(tmp_path / "out").to_pylist()
    assert row["prompt"].endswith("It was")
    assert row["messages"] == [talk[0], {"role": "assistant", "content": "It was" + row["text"]}]
    assert verify([f"output.path={tmp_path / 'out'}", "replay=1"]) == 0


def test_a_model_without_a_template_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(MODEL, source, tmp_path / "out", "source.messages_column=list") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("promptmill:")]
    assert "has no chat template, which source.messages_column needs; give one with source.chat_template=FILE" in line
    assert not (tmp_path / "out").exists()


def test_a_template_of_ones_own_from_a_file_is_part_of_the_plan(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[bot]")
    words = ["source.messages_column=list", f"source.chat_template={file}", "source.limit=1"]
    assert generate(MODEL, source, tmp_path / "out", *words) == 0
    (row,) = read(tmp_path / "out").to_pylist()
    assert row["prompt"] == "[user] Number 0?\n[assistant] Yes.\n[user] So?\n[bot]"
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert generate(MODEL, source, tmp_path / "out", *words) == 2
    assert verify([f"output.path={tmp_path / 'out'}", "replay=1"]) == 0, "the output keeps the template"


def test_the_day_stays_that_of_the_beginning(
    model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["source.messages_column=list", "source.limit=1"]
    words += ["""source.chat_template='{{ strftime_now("%d %b %Y") }}: {{ messages[0].content }}'"""]
    assert generate(model, source, tmp_path / "out", *words) == 0
    (row,) = read(tmp_path / "out").to_pylist()
    today = datetime.date.today()
    assert row["prompt"].endswith(": Number 0?")
    plan = json.loads((tmp_path / "out" / "_job" / "plan.json").read_text())
    begun = datetime.date.fromisoformat(plan["fingerprint"]["source"]["chat_date"])
    assert today - begun <= datetime.timedelta(days=1)

    class Tomorrow(datetime.date):
        @classmethod
        def today(cls) -> Tomorrow:
            return cls.fromordinal(begun.toordinal() + 1)

    monkeypatch.setattr("pipeline.work.prepare.datetime.date", Tomorrow)
    (tmp_path / "out" / "data" / next(p.name for p in (tmp_path / "out" / "data").iterdir())).unlink()
    assert generate(model, source, tmp_path / "out", *words) == 0
    assert read(tmp_path / "out").to_pylist()[0]["prompt"] == row["prompt"]
    assert verify([f"output.path={tmp_path / 'out'}", "replay=1"]) == 0
    assert generate(model, source, tmp_path / "next", *words) == 0
    assert read(tmp_path / "next").to_pylist()[0]["prompt"] != row["prompt"]


def test_a_tuned_model_without_its_template_is_told_of(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write({"id": ["a"], "prompt": ["Hi"]}, tmp_path / "in.parquet")
    words = [w for w in KEPT if "messages" not in w]
    assert main([f"model.path={model}", f"source.path={source}", f"output.path={tmp_path / 'o'}", *words, *INLINE]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "chat template" in line]
    assert len(told) == 1 and "source.chat=true" in told[0]


def test_composed_ids_name_the_rows(tmp_path: Path) -> None:
    source = write({"doc": ["a", "a"], "part": [1, 2], "prompt": ["One", "Two"]}, tmp_path / "in.parquet")
    words = ["source.id_template='{{ doc }}-{{ part }}'", "sampling.max_tokens=3"]
    assert main([f"model.path={MODEL}", f"source.path={source}", f"output.path={tmp_path / 'o'}", *words, *INLINE]) == 0
    assert read(tmp_path / "o")["row_id"].to_pylist() == ["a-1", "a-2"]
    assert verify([f"output.path={tmp_path / 'o'}", "replay=2"]) == 0
