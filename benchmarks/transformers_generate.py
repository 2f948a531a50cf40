"""Times transformers' `generate` on a workload, in static batches sorted by output length, and prints one JSON line.

    python benchmarks/transformers_generate.py MODEL_DIR WORKLOAD REQUESTS BATCH

Sorting is what a careful user does: a batch runs until its longest sequence ends. Loading and a warm-up are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from workload import WORKLOADS, make

PAD = 50_256


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("requests", type=int)
    parser.add_argument("batch", type=int)
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, local_files_only=True).eval()

    def generate(group: list[tuple[list[int], int]]) -> None:
        width, new = max(len(prompt) for prompt, _ in group), max(count for _, count in group)
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt, _ in group])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in group])
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=True,
                top_k=0,
                pad_token_id=PAD,
            )

    work = sorted(make(arguments.workload, arguments.requests), key=lambda request: request[1])
    generate([(prompt, 2) for prompt, _ in work[:2]])
    start = time.perf_counter()
    for first in range(0, len(work), arguments.batch):
        generate(work[first : first + arguments.batch])
    seconds = time.perf_counter() - start
    tokens = sum(new for _, new in work)
    figures = {"engine": "transformers.generate", "workload": arguments.workload, "requests": arguments.requests,
               "tokens": tokens, "batch": arguments.batch, "seconds": round(seconds, 2),
               "tok_s": round(tokens / seconds, 1)}  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
