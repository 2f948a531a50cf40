"""Times transformers' `generate`, in static batches sorted by output length.

    python -m benchmarks.peers.transformers_generate MODEL WORKLOAD REQUESTS BATCH

Sorting is what a careful user does: a batch runs until its longest sequence ends. Several completions of a prompt are
`num_return_sequences`, and BATCH counts each. It follows no choice: `classify` generates as many tokens freely. Needs torch
and transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.parts.procedure import measure, parser, report
from benchmarks.parts.workload import Work, answers

PAD = 50_256


def main() -> None:
    """Load, time, print."""
    arguments = parser(__doc__).parse_args()
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, local_files_only=True)
    model.eval()
    samples = answers(arguments.workload).samples
    prompts = max(1, arguments.batch // samples)

    def generate(work: Work) -> int:
        ordered = sorted(work, key=lambda request: request[1])
        starts = range(0, len(work), prompts)
        return sum(run_batch(model, ordered[first : first + prompts], samples) for first in starts)

    figures = measure(generate, arguments)
    report({"engine": "transformers", "precision": "float32", **figures}, "transformers", "torch")


def run_batch(model: Any, batch: Work, samples: int) -> int:
    """Run one padded batch to its longest request's end; tokens past a request's own end do not count."""
    width, new = max(len(prompt) for prompt, _ in batch), max(count for _, count in batch)
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt, _ in batch])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in batch])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=True, temperature=1.0,
            top_k=0, top_p=1.0, pad_token_id=PAD, num_return_sequences=samples,
        )  # fmt: skip
    return len(out) // len(batch) * sum(min(count, out.shape[1] - width) for _, count in batch)


if __name__ == "__main__":
    main()
