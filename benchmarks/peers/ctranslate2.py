"""Times CTranslate2's generator, in static batches sorted by output length.

    python -m benchmarks.peers.ctranslate2 MODEL WORKLOAD REQUESTS BATCH [--compute-type float32|int8_float32]

MODEL is a folder that `ct2-transformers-converter` wrote. A batch has one length, so only where all requests are alike
is it a fair comparison. Needs ctranslate2.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import ctranslate2  # type: ignore[import-not-found]

from benchmarks.parts.procedure import measure, parser, report
from benchmarks.parts.workload import Work


def main() -> None:
    """Load, time, print."""
    options = parser(__doc__)
    options.add_argument("--compute-type", choices=("float32", "int8_float32"), default="float32")
    arguments = options.parse_args()
    # the converter writes the vocabulary in the order of the ids, so no tokenizer is needed
    names = json.loads((Path(arguments.model) / "vocabulary.json").read_text())
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    generator = ctranslate2.Generator(
        arguments.model, device="cpu", compute_type=arguments.compute_type, inter_threads=1, intra_threads=threads
    )

    def run_batch(batch: Work) -> int:
        new = max(count for _, count in batch)
        results = generator.generate_batch(
            [[names[token] for token in prompt] for prompt, _ in batch], max_length=new, min_length=new,
            sampling_topk=0, sampling_temperature=1.0, include_prompt_in_result=False,
        )  # fmt: skip
        return sum(min(count, len(result.sequences_ids[0])) for (_, count), result in zip(batch, results, strict=True))

    def generate(work: Work) -> int:
        ordered = sorted(work, key=lambda request: request[1])
        return sum(
            run_batch(ordered[first : first + arguments.batch]) for first in range(0, len(work), arguments.batch)
        )

    figures = measure(generate, arguments)
    report({"engine": "ctranslate2", "precision": arguments.compute_type, **figures}, "ctranslate2")


if __name__ == "__main__":
    main()
