"""A tiny model with a context of 1024 tokens, and scores of texts in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from jobs.score import main
from tests.engine.small.tiny_models import END, write_model
from tests.small_runs import INLINE, write

Rows = list[dict[str, Any]]
Score = Callable[..., Rows]


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    config = GPT2Config(
        vocab_size=320, n_positions=1024, n_embd=32, n_layer=1, n_head=2, n_inner=64, initializer_range=0.3,
        bos_token_id=END, eos_token_id=END,
    )  # fmt: skip
    write_model(folder, config, seed=3)
    return folder


@pytest.fixture(scope="session")
def exact(long_model: Path) -> Callable[[Sequence[int]], np.ndarray[Any, Any]]:
    """Log-probabilities in float64 of each token after the first, [T - 1], by transformers."""
    model: Any = AutoModelForCausalLM.from_pretrained(long_model, dtype=torch.float64).eval()

    def logprobs(ids: Sequence[int]) -> np.ndarray[Any, Any]:
        inputs = torch.tensor([list(ids)])
        with torch.inference_mode():
            found = model(inputs[:, :-1]).logits[0].log_softmax(-1)
        assert found.dtype == torch.float64
        return found.gather(-1, inputs[0, 1:, None])[:, 0].numpy()

    return logprobs


@pytest.fixture
def score(tmp_path: Path) -> Score:
    """Score a table, and return the output's rows; the last run's folder is `out`."""

    def run(model: Path, table: Any, *options: str, code: int = 0) -> Rows:
        source, output = write(table, tmp_path / "in.parquet"), tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        # Most of a small run's time would go into its report.
        words = [
            f"model.path={model}",
            f"source.path={source}",
            f"output.path={output}",
            "output.report=false",
            *INLINE,
        ]
        assert main([*words, *options]) == code
        (tmp_path / "out").unlink(missing_ok=True)
        (tmp_path / "out").symlink_to(output)
        return pq.read_table(output / "data").to_pylist() if (output / "data").exists() else []

    return run
