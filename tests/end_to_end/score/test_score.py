"""`score` as a user runs it: what was generated, the demo grammar, pairs, endings, errors, resume and verify."""

from __future__ import annotations

import importlib
import json
import math
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from jobs.score import main
from jobs.verify import main as verify
from tests import small_runs
from tests.end_to_end.score.conftest import Score
from tests.engine.small.tiny_models import DEMO, Tiny
from tests.small_runs import INLINE, MODEL, OPENINGS, generate, manifest, read, write


@pytest.fixture(scope="module", params=["auto", "none"])
def kernels(request: pytest.FixtureRequest) -> str:
    """The compiled kernels, and torch's operations in their place."""
    return f"engine.kernels={request.param}"


@pytest.fixture(scope="module")
def generated(kernels: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `generate` wrote of prompts, some of which are errors, two samples each."""
    folder = tmp_path_factory.mktemp("generated")
    source = write(small_runs.prompts(14), folder / "prompts.parquet")
    more = ("source.id_column=id", "sampling.n=2", "sampling.temperature=1", "sampling.max_tokens=24", "stats.top_logprobs=2",
            "stats.prompt_logprobs=true", kernels)  # fmt: skip
    assert generate(source, folder / "out", *more) == 0
    return folder / "out"


@pytest.mark.parametrize("prompt", ["prompt_column=prompt", "token_ids_column=prompt_token_ids"])
def test_what_was_generated_gets_the_same_bits(generated: Path, kernels: str, tmp_path: Path, prompt: str) -> None:
    words = [f"model.path={MODEL}", f"source.path={generated / 'data'}", f"output.path={tmp_path / 'out'}", *INLINE,
             kernels, "output.report=false", f"source.{prompt}", "source.completion_column=token_ids", "stats.top_logprobs=2",
             'source.id_template="{{ row_id }}/{{ sample_index }}"']  # fmt: skip
    assert main(words) == 0
    made = {f"{row['row_id']}/{row['sample_index']}": row for row in read(generated).to_pylist()}
    scored = {row["row_id"]: row for row in read(tmp_path / "out").to_pylist()}
    assert scored.keys() == made.keys()
    names = ("token_ids", "token_logprobs", "token_entropies", "token_ranks", "top_token_ids", "top_token_logprobs")
    for name, row in scored.items():
        assert [row[n] for n in names] == [made[name][n] for n in names]
        assert (row["error_code"] is None) == (made[name]["error_code"] is None)
        if row["error_code"] is None:
            assert row["negative_log_likelihood"] == -made[name]["cumulative_logprob"]
            assert row["prompt_tokens"] == made[name]["prompt_tokens"]


def test_the_prompts_too(generated: Path, kernels: str, tmp_path: Path) -> None:
    words = [f"model.path={MODEL}", f"source.path={generated / 'data'}", f"output.path={tmp_path / 'out'}", *INLINE,
             kernels, "output.report=false", 'source.id_template="{{ row_id }}/{{ sample_index }}"']  # fmt: skip
    assert main(words) == 0
    made = {
        f"{row['row_id']}/{row['sample_index']}": row["prompt_token_logprobs"] for row in read(generated).to_pylist()
    }
    assert {row["row_id"]: row["token_logprobs"] for row in read(tmp_path / "out").to_pylist()} == made


def test_the_grammar_that_the_demo_model_learned(score: Score) -> None:
    sys.path.insert(0, str(DEMO.parent))
    try:
        grammar = importlib.import_module("topics").GRAMMAR
    finally:
        sys.path.remove(str(DEMO.parent))
    rng = random.Random(11)
    documents = [grammar.sample(rng) for _ in range(60)]
    assert all(math.isclose(d.log_probability, grammar.log_probability(d.text)) for d in documents[:5])
    rows = score(MODEL, {"prompt": [d.text + "<|endoftext|>" for d in documents]}, "score.bos=true")
    model = Tiny(DEMO)
    exact, end = [], model.tokenizer.eos_token_id
    for row in rows:
        ids = [end, *row["token_ids"]]
        logits = torch.tensor(model.exact_logits(ids[:-1])).log_softmax(-1)
        exact.append(-float(logits[range(len(ids) - 1), ids[1:]].sum()))
    np.testing.assert_allclose([row["negative_log_likelihood"] for row in rows], exact, atol=1e-3)
    nats = -sum(d.log_probability for d in documents)
    ours, tokens = sum(row["negative_log_likelihood"] for row in rows), sum(row["scored_tokens"] for row in rows)
    # no model gives the grammar's documents more than the grammar does, on average; this one gives them nearly as much
    assert 1.0 < math.exp((ours - nats) / tokens) < 1.02


CHOICES = {
    "id": list("abcdef"),
    "context": ["Once there was an old ", "The train to", "", None, "Dear", "Lost"],
    "endings": [["bear", "zebra", "bear"], [" Larkfield"], ["One", "Two"], ["x"], ["a", None], []],
    "gold": ["0", " Larkfield", "Three", "0", "0", None],
}


def test_endings(tmp_path: Path, score: Score) -> None:
    options = ["source.prompt_column=context", "source.endings_column=endings", "source.answer_column=gold",
               "source.id_column=id", "source.keep_columns=[gold]", "score.unconditional=true"]  # fmt: skip
    rows = score(MODEL, CHOICES, *options)
    assert [(r["row_id"], r["sample_index"], r["error_code"]) for r in rows] == [
        ("a", 0, None), ("a", 1, None), ("a", 2, None), ("b", 0, None), ("c", 0, "BAD_ANSWER"), ("d", 0, "NULL_PROMPT"),
        ("e", 0, "NULL_PROMPT"), ("f", 0, "NULL_PROMPT"),
    ]  # fmt: skip
    assert [r["gold"] for r in rows[:4]] == ["0", "0", "0", " Larkfield"]
    bear, zebra, again = rows[:3]
    assert (bear["best"], zebra["best"], again["best"], bear["is_answer"]) == (True, False, False, True)
    assert bear["token_logprobs"] == again["token_logprobs"]  # of equal ones the first is the best
    assert (bear["text"], bear["bytes"], bear["words"]) == ("bear", 4, 1)
    assert manifest(tmp_path / "out")["totals"]["errors"] == {"BAD_ANSWER": 1, "NULL_PROMPT": 3}
    alone = score(MODEL, {"prompt": ["bear"]}, "score.bos=true")[0]
    assert alone["negative_log_likelihood"] == bear["unconditional_negative_log_likelihood"]


def test_texts_and_their_sizes(tmp_path: Path, score: Score) -> None:
    texts = ["Ünïcødé — 雨 🌧", "one  two\n", None, "", "a"]
    rows = score(MODEL, {"prompt": texts})
    assert [r["error_code"] for r in rows] == [None, None, "NULL_PROMPT", "EMPTY_PROMPT", None]
    assert [(r["bytes"], r["words"]) for r in rows[:2]] == [(len(texts[0].encode()), 4), (9, 2)]  # type: ignore[union-attr]
    assert (rows[4]["scored_tokens"], rows[4]["perplexity"], rows[4]["token_logprobs"]) == (0, None, [None])
    body = manifest(tmp_path / "out")
    good = [r for r in rows if r["error_code"] is None]
    nats, tokens = sum(r["negative_log_likelihood"] for r in good), sum(r["scored_tokens"] for r in good)
    assert body["totals"]["sums"]["scored_tokens"] == tokens
    assert body["figures"]["perplexity"] == pytest.approx(math.exp(nats / tokens))
    assert body["figures"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(r["bytes"] for r in good))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Scored texts" in card and "bits\\_per\\_byte" in card


@pytest.mark.parametrize("engine", ["static", "continuous"])
@pytest.mark.parametrize("columns", ["[]", "[rank]"])
def test_fewer_statistics(tmp_path: Path, score: Score, engine: str, columns: str) -> None:
    pairs = {"prompt": ["Dear", *OPENINGS], "rest": ["", *OPENINGS]}
    rows = score(
        MODEL, pairs, f"engine={engine}", f"stats.columns={columns}", "output.include_prompt=false",
        "source.completion_column=rest",
    )  # fmt: skip
    assert "token_logprobs" not in rows[0] and "text" not in rows[0]
    scored = [row for row in rows if row["scored_tokens"]]
    assert len(scored) == len(OPENINGS) and all(row["negative_log_likelihood"] > 0 for row in scored)
    assert {row["is_greedy"] for row in scored} == ({False} if columns == "[rank]" else {None})
    found = manifest(tmp_path / "out")["figures"]
    assert "text_perplexity" in found and ("greedy_accuracy" in found) == (columns == "[rank]")


def test_figures_that_would_mean_nothing_are_not_there(tmp_path: Path, score: Score) -> None:
    rows = score(MODEL, {"prompt": [*OPENINGS]})
    assert "is_greedy" not in rows[0]
    of_texts = ["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"]
    assert [*manifest(tmp_path / "out")["figures"]] == of_texts
    # which of the endings is right is not known
    score(MODEL, {"prompt": ["Dear"], "endings": [[" Anna", " bear"]]}, "source.endings_column=endings")
    assert "figures" not in manifest(tmp_path / "out")


KILLED_AT_A_COMMIT = """
import os, signal, sys
from pathlib import Path
from jobs.score import main
link, count = os.link, 0
def fatal(source, final, **how):
    global count
    count += Path(final).parent.name == "data"
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    link(source, final, **how)
os.link = fatal
sys.exit(main(sys.argv[1:]))
"""


def test_long_texts_of_a_run_that_was_killed(tmp_path: Path) -> None:
    source = write({"id": [*"abcdefgh"], "prompt": [text * 9 for text in OPENINGS]}, tmp_path / "in.parquet")
    words = [f"model.path={MODEL}", f"source.path={source}", *INLINE, "source.id_column=id", "output.rows_per_shard=1",
             "score.stride=40", "engine.max_model_len=96", "output.report=false"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*words, f"output.path={whole}"]) == 0
    assert pc.max(read(whole).column("prompt_tokens")).as_py() > 96
    ended = small_runs.python(KILLED_AT_A_COMMIT, *words, f"output.path={killed}")
    assert ended.returncode == -signal.SIGKILL and len(small_runs.parts(killed)) == 2, ended.stderr
    assert main([*words, f"output.path={killed}", "engine.max_num_seqs=3"]) == 0
    small_runs.assert_same_rows(whole, killed)


def test_verify_finds_what_was_changed(tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    score(MODEL, {"prompt": [*OPENINGS, None, "a"]}, "stats.top_logprobs=2")
    output = (tmp_path / "out").resolve()
    assert verify([f"output.path={output}", "replay=20"]) == 0
    assert "10 of 10 output rows are the same" in capsys.readouterr().out
    (part,) = (output / "data").iterdir()
    table = pq.read_table(part)
    for name, value in (("negative_log_likelihood", 1.5), ("scored_tokens", 7), ("token_ranks", [5, None])):
        at = table.schema.get_field_index(name)
        changed: list[Any] = table.column(name).to_pylist()
        changed[0] = value
        column = pa.array(changed, table.schema.field(at).type)
        pq.write_table(table.set_column(at, table.schema.field(at), column), part)
        assert verify([f"output.path={output}"]) == 4
        assert name in capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    source = write(
        {"id": [str(i) for i in range(40)], "prompt": [OPENINGS[i % 8] * (1 + i % 3) for i in range(40)]},
        tmp_path / "in.parquet",
    )
    words = [f"model.path={MODEL}", f"source.path={source}", *INLINE, "source.id_column=id", "output.rows_per_shard=3",
             "output.report=false"]  # fmt: skip
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert main([*words, f"output.path={whole}"]) == 0
    assert main([*words, f"output.path={parted}"]) == 0
    for number, part in enumerate(sorted((parted / "data").iterdir())):
        if number % 2:
            part.unlink()
    (parted / "_job" / "manifest.json").unlink()
    assert main([*words, f"output.path={parted}", "engine.max_num_seqs=2"]) == 0
    assert {p.name: p.read_bytes() for p in (whole / "data").iterdir()} == {
        p.name: p.read_bytes() for p in (parted / "data").iterdir()
    }
    strip = ("timings", "environment")
    a, b = (
        {k: v for k, v in json.loads((o / "_job" / "manifest.json").read_text()).items() if k not in strip}
        for o in (whole, parted)
    )
    assert a == b


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["score.stride=0"], "score.stride=0: must be null or a whole number from 1"),
        (["score.stride=5000"], "score.stride=5000: must be at most the context, which has"),
        (["score.windows=none"], "score.windows='none': must be one of sliding, rolling"),
        (["score.windows=rolling", "score.stride=5"], "score.stride=5: must be null with score.windows=rolling"),
        (["score.bos=true", "source.completion_column=prompt"], "score.bos=true: must be false with completions or endings"),
        (["score.concatenate=true", "source.endings_column=prompt"], "score.concatenate=true: must be false with completions"),
        (["score.unconditional=true"], "score.unconditional=true: must be false without source.endings_column"),
        (["source.answer_column=prompt"], "source.answer_column='prompt': must be given with source.endings_column only"),
        (["source.endings_column=prompt"], "source.endings_column: column 'prompt' is string, must be a list of strings"),
        (["source.completion_column=gone"], "source.completion_column: there is no column 'gone'"),
        (["sampling.temperature=1"], "sampling.temperature: no such key"),
        (["source.sampling_column=prompt"], "source.sampling_column: no such key"),
        (["stats.prompt_logprobs=true"], "stats.prompt_logprobs: no such key"),
        (["preview=3"], "preview: no such key"),
        (["source.keep_columns=[bytes]"], "kept column 'bytes' has the name of an output column"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str) -> None:
    source = write({"prompt": ["a"], "bytes": [1]}, tmp_path / "in.parquet")
    words = [f"model.path={MODEL}", f"source.path={source}", f"output.path={tmp_path / 'out'}", *INLINE, *options]
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("promptmill: ")]
    assert len(lines) == 1 and told in lines[0], lines
    assert not (tmp_path / "out" / "data").exists()
