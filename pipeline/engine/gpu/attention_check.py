"""Checks the attention kernels on this device: correct up to rounding, and the same bits in every batch.

The check runs once, when a model is loaded, and compiles the kernels that the model needs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.cache.kv_cache import side_shapes
from pipeline.engine.gpu.attention import SPLIT, DeviceStep
from pipeline.engine.gpu.trial import passes
from pipeline.engine.plain import attention as plain_attention
from pipeline.engine.plain.attention import Spot

_DECODING = (1, BLOCK, BLOCK + 9, SPLIT * BLOCK, SPLIT * BLOCK + BLOCK + 1)
"""Lengths of the sequences that decode: within a block, at its end, beyond it; one whole part; two parts."""
_PROMPT = BLOCK + 7


def kernels_are_right(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device
) -> bool:
    """Check the kernels with a model's own shape of heads.

    Args:
        heads: Query heads.
        kv_heads: Key heads.
        head_dim: Elements a head.
        dtype: Type of the activations.
        kv_dtype: Type of the cache.
        device: Where they are.

    Returns:
        False, too, where Triton is missing or cannot compile or run them.

    Raises:
        ModelRefused: If they lose the device; see `passes`.
    """
    return passes("attention", device, lambda: _Trial(heads, kv_heads, head_dim, dtype, kv_dtype, device).passes())


class _Trial:
    """A step with sequences that decode, an idle token and a prompt, over a cache full of what nobody wrote."""

    def __init__(
        self, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device
    ) -> None:  # fmt: skip
        """Draw it, and fill the cache with the pasts."""
        draw = torch.Generator().manual_seed(0)
        self._dtype, self._kv_dtype, self._device, self._scale = dtype, kv_dtype, device, head_dim**-0.5
        lengths = [*_DECODING, _PROMPT]
        counts = [blocks_for(n) for n in lengths]
        order = torch.randperm(sum(counts), generator=draw).int()
        self._tables = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
        for row, count in enumerate(counts):
            self._tables[row, :count] = order[sum(counts[:row]) :][:count]
        decoding = len(_DECODING)
        self._slots = torch.tensor([*range(decoding), 0, *[decoding] * _PROMPT], dtype=torch.int32)
        self._positions = torch.tensor([*(n - 1 for n in _DECODING), -1, *range(_PROMPT)], dtype=torch.int32)
        tokens = len(self._slots)
        self._q = torch.randn(tokens, heads, head_dim, generator=draw).to(dtype)
        self._k, self._v = (torch.randn(tokens, kv_heads, head_dim, generator=draw).to(dtype) for _ in range(2))
        nothing = 77 if kv_dtype == torch.int8 else torch.nan
        sides = (torch.full((sum(counts), *side), nothing) for side in side_shapes(kv_heads, head_dim, kv_dtype))
        self._keys, self._values = (side.to(kv_dtype) for side in sides)
        for row, length in enumerate(_DECODING):
            past = [torch.randn(length - 1, kv_heads, head_dim, generator=draw).to(dtype) for _ in range(2)]
            plain_attention.write(self._keys, self._values, self._places(row, torch.arange(length - 1)), *past)

    def passes(self) -> bool:
        """Run it as a whole, in other company and alone."""
        decoding, two = len(_DECODING), 2  # parts of the longest
        (first, second), nothing = self._chunks(), (0, 0, 0, 0)
        step = DeviceStep(
            self._slots.to(self._device), self._positions.to(self._device), self._int([decoding]),
            self._int([first, nothing, second]), self._tables.to(self._device), decoding, two,
        )  # fmt: skip
        whole, keys, values = self._run(step, slice(None))
        other, *_ = self._run(replace(step, rows=decoding + 1, splits=two + 1, chunks=step.chunks.flip(0)), slice(None))
        same = torch.equal(whole, other)
        for row in range(decoding):
            part = slice(row, row + 1)
            alone = DeviceStep(
                step.slots[part].clone(), step.positions[part].clone(), self._int([1]), step.chunks[:0], step.tables, 1,
                blocks_for(_DECODING[row] + (SPLIT - 1) * BLOCK) // SPLIT,
            )  # fmt: skip
            same = same and torch.equal(self._run(alone, part)[0][0], whole[row])
        return same and self._is_right(whole.cpu(), keys.cpu(), values.cpu())

    def _run(self, step: DeviceStep, tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Output, keys and values of a step of some of the tokens."""
        q, k, v, keys, values = (
            x.to(self._device, copy=True)
            for x in (self._q[tokens], self._k[tokens], self._v[tokens], self._keys, self._values)
        )
        return step.attend(q, k, v, keys, values, self._scale), keys, values

    def _is_right(self, out: Tensor, keys: Tensor, values: Tensor) -> bool:
        """Compare with torch's operations on the CPU, in float32."""
        busy = self._positions >= 0
        places = self._places(self._slots[busy].long(), self._positions[busy].long())
        plain_attention.write(self._keys, self._values, places, self._k[busy], self._v[busy])
        spots = [*((row, 1, length - 1, row) for row, length in enumerate(_DECODING)), *self._chunks()]
        tokens, _, dim = self._q.shape
        grouped = self._q.float().view(tokens, self._k.shape[1], -1, dim) * self._scale
        expected = plain_attention.attend(grouped, self._keys, self._values, spots, self._tables).flatten(1, 2)
        error = max(4 * torch.finfo(self._dtype).eps, 1e-4)
        return torch.allclose(out.float(), expected, rtol=error, atol=error) and all(
            torch.equal(found, wanted) if self._kv_dtype == torch.int8 else _close(found, wanted)
            for found, wanted in ((keys, self._keys), (values, self._values))
        )

    @staticmethod
    def _chunks() -> list[Spot]:
        """Those of the prompt."""
        row = len(_DECODING)
        return [(row + 1, BLOCK, 0, row), (row + 1 + BLOCK, _PROMPT - BLOCK, BLOCK, row)]

    def _places(self, rows: int | Tensor, positions: Tensor) -> Tensor:
        return self._tables[rows, positions // BLOCK].long() * BLOCK + positions % BLOCK

    def _int(self, numbers: list[int] | list[Spot]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self._device)


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Whether what a cache keeps agrees to its last place, unwritten places included."""
    return torch.allclose(found.float(), wanted.float(), rtol=torch.finfo(found.dtype).eps, atol=0, equal_nan=True)
