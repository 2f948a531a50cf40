"""Random steps of a fixed shape on the device, with idle places, made from the cases of `attention_cases`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.gpu.attention import SPLIT, DeviceStep
from tests.engine.gpu.device import DEVICE
from tests.engine.small.attention_cases import Case, make_case

PART = SPLIT * BLOCK
LENGTHS = [1, 2, 31, 32, 33, 64, 65, 100]
PROMPTS = [1, 2, 31, 32, 33, 40]
LONG = [PART, PART + 1, PART + 40]
GROUPED = [(1, 1), (2, 2), (4, 2), (3, 1), *([(16, 1), (20, 20)] if DEVICE == "cuda" else [])]
"""(query heads, key heads); the interpreter takes a millisecond or more for each program."""
TYPES = [
    (torch.float32, torch.float32), (torch.float32, torch.int8), (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.int8), (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16), (torch.float16, torch.int8),
]  # fmt: skip
"""(of the activations, of the cache)."""


@dataclass
class Ragged:
    """Sequences that decode, then prompts that begin on a block.

    Attributes:
        case: The step; its activations are what `dtype` holds of random numbers.
        decoding: How many of its sequences decode.
        dtype: Type of the activations.
    """

    case: Case
    decoding: int
    dtype: torch.dtype

    def __repr__(self) -> str:
        """What Hypothesis shows: not every number."""
        lengths = [*zip(self.case.pasts, self.case.news, strict=True)]
        shapes = (*self.case.q.shape[1:], self.case.k.shape[1])
        return f"Ragged({lengths}, {self.decoding} decode, {shapes}, {self.dtype}, {self.case.keys.dtype})"

    @property
    def longest(self) -> int:
        """Parts of the longest sequence that decodes."""
        return max([1, *(past // PART + 1 for past in self.case.pasts[: self.decoding])])

    def run(
        self, members: Sequence[int] | None = None, *, splits: int = 0, idle: tuple[int, int, int] = (0, 0, 0),
        shortest: bool = False, fill: float = torch.nan,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor, torch.Tensor]:  # fmt: skip
        """Run a step.

        Args:
            members: Sequences that are in it, those that decode first; null: all.
            splits: Parts that the grid has; 0: as many as needed.
            idle: Decoding rows, tokens and chunks without work.
            shortest: Whether the grid holds no more rows than decode.
            fill: What idle tokens have for queries, keys and values.

        Returns:
            (for each sequence [new, H, D], keys, values) on the CPU.
        """
        case, members = self.case, range(len(self.case.news)) if members is None else members
        decoding = [m for m in members if m < self.decoding]
        places: list[tuple[int, int]] = []  # (sequence, position) of each token; -1: idle
        chunks: list[tuple[int, int, int, int]] = []
        rows = {m: i for i, m in enumerate(members)}
        places += [(m, case.pasts[m]) for m in decoding] + [(-1, -1)] * idle[0]
        for m in members:
            if m >= self.decoding:
                spots = case.spots_of(m, BLOCK)
                chunks += [(len(places) + first - case.firsts[m], n, start, rows[m]) for first, n, start, _ in spots]
                places += [(m, case.pasts[m] + i) for i in range(case.news[m])]
        places += [(-1, -1)] * idle[1]
        chunks = chunks[::-1] + [(0, 0, 0, 0)] * idle[2]
        step = DeviceStep(
            _int([rows.get(m, 0) for m, _ in places]), _int([position for _, position in places]),
            _int([len(decoding)]), _int(chunks).view(-1, 4), case.tables[[*members]].to(DEVICE),
            len(decoding) if shortest else min(len(places), len(decoding) + idle[0] + 1), splits or self.longest,
        )  # fmt: skip
        source = [case.firsts[m] + position - case.pasts[m] if m >= 0 else -1 for m, position in places]
        padded = (torch.cat([x, torch.full_like(x[:1], fill)])[source] for x in (case.q, case.k, case.v))
        q, k, v = (x.to(DEVICE, self.dtype) for x in padded)
        keys, values = (side.clone().to(DEVICE) for side in (case.keys, case.values))
        out = step.attend(q, k, v, keys, values, case.scale).cpu()
        assert out.shape == q.shape and out.dtype == self.dtype
        found = {m: out[[i for i, place in enumerate(places) if place[0] == m]] for m in members}
        found[-1] = out[[i for i, place in enumerate(places) if place[0] < 0]]
        return found, keys.cpu(), values.cpu()


def _int(numbers: Sequence[object]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device=DEVICE)


def make_ragged(
    seed: int, decoding: list[int], prompts: list[tuple[int, int]], heads: tuple[int, int], dim: int,
    types: tuple[torch.dtype, torch.dtype],
) -> Ragged:  # fmt: skip
    """Draw a step.

    Args:
        seed: Of the numbers.
        decoding: Lengths of the sequences that decode.
        prompts: (blocks before, new tokens) of the others.
        heads: Query heads, key heads.
        dim: Elements a head.
        types: Of the activations and of the cache.
    """
    lengths = [(n - 1, 1) for n in decoding] + [(BLOCK * before, new) for before, new in prompts]
    case = make_case(seed, lengths, heads, dim, types[1])
    case.q, case.k, case.v = (x.to(types[0]).float() for x in (case.q, case.k, case.v))
    if DEVICE == "cpu" and types[1] == torch.bfloat16:  # Triton's interpreter cuts off what bfloat16 does not hold
        case.k, case.v = case.k.bfloat16().float(), case.v.bfloat16().float()
    assert all(blocks_for(past + new) <= case.tables.shape[1] for past, new in lengths)
    return Ragged(case, len(decoding), types[0])


@st.composite
def ragged(draw: st.DrawFn, types: list[tuple[torch.dtype, torch.dtype]] = TYPES) -> Ragged:
    """Steps of up to three sequences that decode, at most one of them long, and up to two prompts."""
    decoding = draw(st.lists(st.one_of(st.sampled_from(LENGTHS), st.integers(1, 200)), max_size=2))
    decoding += draw(st.lists(st.sampled_from(LONG), max_size=1))
    prompt = st.tuples(st.integers(0, 2), st.sampled_from(PROMPTS))
    prompts = draw(st.lists(prompt, min_size=0 if decoding else 1, max_size=2))
    heads, dim = draw(st.sampled_from(GROUPED)), draw(st.sampled_from([4, 16, 20, 64, 80, 96]))
    return make_ragged(draw(st.integers(0, 2**31)), decoding, prompts, heads, dim, draw(st.sampled_from(types)))
