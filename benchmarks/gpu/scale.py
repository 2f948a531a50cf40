"""How large everything is that is measured: for a GPU, and tiny, to see on a processor that every part runs.

It measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.parts.workload import Work, make


@dataclass(frozen=True, slots=True)
class Shape:
    """A GPT-2 with random weights; `spread` is their standard deviation."""

    width: int
    layers: int
    heads: int
    positions: int = 1024
    vocab: int = 50_257
    spread: float = 0.02


@dataclass(frozen=True, slots=True)
class Load:
    """A workload by name: `requests` of `workload`, with `new` tokens each unless that is None, as `mixed` has its own."""

    name: str
    workload: str
    requests: int
    new: int | None = None

    def work(self, turn: int, vocab: int) -> Work:
        """The requests; each turn has other prompts of the same lengths, so that no cached prefix helps the next one."""
        made = make(self.workload, self.requests)
        return [([(i + 7 * turn) % (vocab - 1) for i in prompt], self.new or new) for prompt, new in made]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Sizes of all parts.

    Attributes:
        large: The model whose speed is measured.
        small: The model whose numbers are compared with float64.
        seqs: Sequences at once in the main comparison.
        other_seqs: What else promptmill is run with.
        loads: The workloads.
        batches: Batch sizes of transformers' `generate` beside `seqs`.
        few_shot: What prefix caching is measured with.
        max_len: Positions of a sequence of the large model.
        prompts: Requests of the comparison with float64.
        new: Their new tokens.
        neighbours: Requests beside those whose bytes are compared.
        copy_bytes: Of the copy that tells the bandwidth.
        square: Rows of the matrices that tell the rate.
        steps: (shorter, longer) number of new tokens whose difference in time gives the time of a step.
        traced: Steps in the profile.
        peer_seconds: After that many seconds a peer's run is cut short, and its line says so.
    """

    large: Shape
    small: Shape
    seqs: int
    other_seqs: tuple[int, ...]
    loads: tuple[Load, ...]
    batches: tuple[int, ...]
    few_shot: Load
    max_len: int
    prompts: int
    new: int
    neighbours: int
    copy_bytes: int
    square: int
    steps: tuple[int, int]
    traced: int
    peer_seconds: float


FULL = Scale(
    large=Shape(1280, 36, 20), small=Shape(256, 4, 4, positions=512, vocab=4096, spread=0.15),
    seqs=256, other_seqs=(512, 128),
    loads=(Load("uniform 128", "uniform", 512, 128), Load("mixed", "mixed", 2048), Load("uniform 512", "uniform", 256, 512)),
    batches=(512, 128), few_shot=Load("few_shot", "few_shot", 1024), max_len=576,
    prompts=32, new=64, neighbours=240, copy_bytes=4 << 30, square=8192, steps=(236, 300), traced=8, peer_seconds=20,
)  # fmt: skip
"""`mixed` with 2,048 requests, as its usual 128 would not fill the sequences that a GPU runs at once."""
TINY = Scale(
    large=Shape(64, 2, 1, vocab=2048), small=Shape(128, 2, 2, positions=256, vocab=1536, spread=0.15),
    seqs=8, other_seqs=(4,),
    loads=(Load("uniform 8", "uniform", 12, 8), Load("mixed", "mixed", 6)),
    batches=(4,), few_shot=Load("few_shot", "few_shot", 4), max_len=576,
    prompts=6, new=12, neighbours=6, copy_bytes=1 << 22, square=128, steps=(4, 12), traced=3, peer_seconds=10,
)  # fmt: skip
