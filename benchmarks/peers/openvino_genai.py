"""Times OpenVINO GenAI's continuous batching pipeline.

    python -m benchmarks.peers.openvino_genai MODEL WORKLOAD REQUESTS BATCH [KEY=VALUE ...]

MODEL is a folder that `optimum-cli export openvino` wrote, with weights in float32 or int8; KEY=VALUE are properties of the
device, such as INFERENCE_PRECISION_HINT=f32. Its prefix cache is on where prompts share anything. Several completions of a
prompt are `num_return_sequences`, a choice is a regular expression of its structured output. Needs openvino-genai.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai as genai  # type: ignore[import-not-found]

from benchmarks.parts.procedure import measure, parser, report
from benchmarks.parts.workload import SHARING, Answers, Work, answers

KV_CACHE_GIB = 6
BATCHED_TOKENS = 256


def main() -> None:
    """Load, time, print."""
    options = parser(__doc__)
    options.add_argument("properties", nargs="*", metavar="KEY=VALUE")
    options.add_argument("--top-k", type=int, help="sample from so many tokens only; left out: the whole vocabulary")
    arguments = options.parse_args()
    properties = dict(item.split("=", 1) for item in arguments.properties)
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = KV_CACHE_GIB
    scheduler.max_num_seqs = arguments.batch
    scheduler.max_num_batched_tokens = BATCHED_TOKENS
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = arguments.workload in SHARING
    pipeline = genai.ContinuousBatchingPipeline(Path(arguments.model), scheduler, "CPU", properties)
    asked = answers(arguments.workload)

    def generate(work: Work) -> int:
        results = pipeline.generate(
            [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt, _ in work],
            [settings(new, asked, arguments.top_k) for _, new in work],
        )
        return sum(len(ids) for result in results for ids in result.m_generation_ids)

    figures = measure(generate, arguments)
    report({"engine": "openvino", "properties": properties, **figures}, "openvino", "openvino-genai")


def settings(new: int, asked: Answers, top_k: int | None) -> genai.GenerationConfig:
    """Sample exactly `new` tokens at temperature 1; a choice is as many tokens by itself."""
    config = genai.GenerationConfig()
    config.max_new_tokens = new
    config.num_return_sequences = asked.samples
    config.ignore_eos = config.do_sample = True
    config.temperature = config.top_p = 1.0
    if asked.choice:
        config.structured_output_config = genai.StructuredOutputConfig(regex="|".join(asked.choice))
    else:
        config.min_new_tokens = new
    if top_k is not None:
        config.top_k = top_k
    return config


if __name__ == "__main__":
    main()
