"""Times OpenVINO GenAI's continuous batching pipeline.

    python -m benchmarks.peers.openvino_genai MODEL WORKLOAD REQUESTS BATCH [KEY=VALUE ...]

MODEL is a folder that `optimum-cli export openvino` wrote, with weights in float32 or int8; KEY=VALUE are properties of the
device, such as INFERENCE_PRECISION_HINT=f32. Needs openvino-genai.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai as genai  # type: ignore[import-not-found]

from benchmarks.procedure import measure, parser, report
from benchmarks.workload import Work

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
    scheduler.enable_prefix_caching = arguments.workload == "few_shot"
    pipeline = genai.ContinuousBatchingPipeline(Path(arguments.model), scheduler, "CPU", properties)

    def generate(work: Work) -> int:
        results = pipeline.generate(
            [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt, _ in work],
            [settings(new, arguments.top_k) for _, new in work],
        )
        return sum(len(result.m_generation_ids[0]) for result in results)

    figures = measure(generate, arguments)
    report({"engine": "openvino", "properties": properties, **figures}, "openvino", "openvino-genai")


def settings(new: int, top_k: int | None) -> genai.GenerationConfig:
    """Sample exactly `new` tokens at temperature 1."""
    config = genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = new
    config.ignore_eos = config.do_sample = True
    config.temperature = config.top_p = 1.0
    if top_k is not None:
        config.top_k = top_k
    return config


if __name__ == "__main__":
    main()
