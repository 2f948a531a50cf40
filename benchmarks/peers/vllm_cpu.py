"""Times vLLM's offline engine on a processor, compiled, as it is by default.

    python -m benchmarks.peers.vllm_cpu MODEL WORKLOAD REQUESTS BATCH [--dtype float32]

Its prefix cache is on. Several completions of a prompt are its `n`, a choice is its structured output. Needs vLLM built for
processors, and a compiler and ninja on PATH: it compiles its kernels when it is started.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.parts.procedure import measure, parser, report
from benchmarks.parts.workload import Answers, Work, answers

KV_CACHE_GIB = "6"


def main() -> None:
    """Load, time, print."""
    options = parser(__doc__)
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = options.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_CACHE_GIB)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from vllm import LLM  # type: ignore[import-not-found]  # reads the environment when it is imported

    llm = LLM(arguments.model, dtype=arguments.dtype, max_num_seqs=arguments.batch, enable_prefix_caching=True)
    asked = answers(arguments.workload)

    def generate(work: Work) -> int:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in work],
            [settings(new, asked) for _, new in work],
            use_tqdm=False,
        )
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)

    figures = measure(generate, arguments)
    report({"engine": "vllm", "precision": arguments.dtype, **figures}, "vllm", "vllm-cpu", "torch", "transformers")


def settings(new: int, asked: Answers) -> Any:
    """Sample exactly `new` tokens at temperature 1; a choice is as many tokens by itself."""
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams  # type: ignore[import-not-found]

    made = SamplingParams(n=asked.samples, temperature=1.0, top_k=-1, top_p=1.0, max_tokens=new, ignore_eos=True)
    if asked.choice:
        made.structured_outputs = StructuredOutputsParams(choice=list(asked.choice))
    else:
        made.min_tokens = new
    return made


if __name__ == "__main__":  # its engine is a process of its own, which imports this module again
    main()
