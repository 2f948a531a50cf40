"""Times vLLM's offline engine on a processor, compiled, as it is by default.

    python -m benchmarks.peers.vllm_cpu MODEL WORKLOAD REQUESTS BATCH [--dtype float32]

Needs vLLM built for processors, and a compiler and ninja on PATH: it compiles its kernels when it is started.
"""

from __future__ import annotations

import os

from benchmarks.procedure import measure, parser, report
from benchmarks.workload import Work

KV_CACHE_GIB = "6"


def main() -> None:
    """Load, time, print."""
    options = parser(__doc__)
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = options.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_CACHE_GIB)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]  # reads the environment when it is imported

    llm = LLM(arguments.model, dtype=arguments.dtype, max_num_seqs=arguments.batch)

    def generate(work: Work) -> int:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in work],
            [
                SamplingParams(temperature=1.0, top_k=-1, top_p=1.0, max_tokens=new, min_tokens=new, ignore_eos=True)
                for _, new in work
            ],
            use_tqdm=False,
        )
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    figures = measure(generate, arguments)
    report({"engine": "vllm", "precision": arguments.dtype, **figures}, "vllm", "vllm-cpu", "torch", "transformers")


if __name__ == "__main__":  # its engine is a process of its own, which imports this module again
    main()
