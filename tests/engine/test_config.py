"""Bad options are told in one line, and good ones need no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.statistics import STATISTICS


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (ModelConfig, {"path": " "}, "path=' ': must be a hub id"),
        (ModelConfig, {"dtype": "int4"}, "dtype='int4': must be one of auto, float32, bfloat16, float16"),
        (ModelConfig, {"quantization": "int4"}, "quantization='int4': must be one of none, int8"),
        (ModelConfig, {"kv_cache_dtype": "float32"}, "kv_cache_dtype='float32': must be one of auto, bfloat16, int8"),
        (EngineConfig, {"name": "vllm"}, "name='vllm': must be one of continuous, static"),
        (EngineConfig, {"max_num_seqs": 0}, "max_num_seqs=0: must be auto or from 1 to 4096"),
        (EngineConfig, {"max_num_seqs": "4097"}, "max_num_seqs='4097': must be auto or from 1 to 4096"),
        (EngineConfig, {"max_num_seqs": "-1"}, "max_num_seqs='-1': must be auto or from 1 to 4096"),
        (EngineConfig, {"max_num_seqs": "\u0663"}, "max_num_seqs='\u0663': must be auto or from 1 to 4096"),
        (EngineConfig, {"max_num_seqs": "1" * 30}, "max_num_seqs='111"),
        (EngineConfig, {"max_num_seqs": "all"}, "max_num_seqs='all': must be auto or from 1 to 4096"),
        (EngineConfig, {"max_model_len": 1}, "max_model_len=1: must be null or at least 2"),
        (EngineConfig, {"max_num_batched_tokens": 31}, "max_num_batched_tokens=31: must be null or at least 32"),
        (StatsConfig, {"columns": ["surprise"]}, "columns=['surprise']: must be a list of logprob, entropy, rank"),
        (StatsConfig, {"columns": ["rank", "rank"]}, "columns=['rank', 'rank']: must be without repetition"),
        (StatsConfig, {"top_logprobs": -1}, "top_logprobs=-1: must be from 0 (off) to 1000"),
    ],
)
def test_bad_options(kind: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        kind(**options)
    assert str(error.value).startswith(told)


def test_defaults_are_good_and_not_shared() -> None:
    ModelConfig(), EngineConfig()
    first, second = StatsConfig(), StatsConfig()
    first.columns.append("x")
    assert second.columns == list(STATISTICS)


def test_sequences_are_a_number_or_null() -> None:
    assert [EngineConfig(max_num_seqs=n).sequences for n in ("auto", "1", "4096", "64")] == [None, 1, 4096, 64]


def test_no_torch_is_needed_to_say_so() -> None:
    code = (
        "import sys, pipeline.engine.config, pipeline.engine.model.files.checkpoint\n"
        "assert not {'torch', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
