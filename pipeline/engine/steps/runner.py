"""Runs the model for one step: token ids in, logits at the requested positions out.

The tokens of all sequences of a step form one row of the model's input. Linear layers see exactly the live tokens, and
attention finds each token's sequence and position in the layout.
"""

from __future__ import annotations

import torch

from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.cache.kv_cache import KVCache
from pipeline.engine.layers.attention import step_layout
from pipeline.engine.layers.linear import MIN_ROWS, UNPREPARED
from pipeline.engine.model.load import LoadedModel
from pipeline.engine.plain.attention import Spot
from pipeline.engine.scheduler import Step

_FINE, _COARSE = 4, 8
"""The number of tokens is padded to a multiple of these (few, many tokens), as kernels are prepared per number of rows."""


class ModelRunner:
    """Runs steps over one model and its blocked cache.

    Args:
        loaded: The model.
        slots: Sequences that can run at once.
        max_len: Tokens of the longest sequence.
        blocks: Blocks of the cache; None: enough for `slots` sequences of `max_len` tokens.
    """

    def __init__(self, loaded: LoadedModel, slots: int, max_len: int, blocks: int | None = None) -> None:
        """Allocate the cache."""
        self.loaded, self.slots, self.max_len = loaded, slots, max_len
        self.blocks = slots * blocks_for(max_len) if blocks is None else blocks
        self.cache = KVCache(
            loaded.layers, self.blocks, loaded.kv_heads, loaded.head_dim, loaded.kv_dtype, loaded.device
        )
        self._compiled = loaded.attention.startswith("native")
        self._any_shape = loaded.kernels.keys() <= UNPREPARED

    @torch.inference_mode()
    def run(self, step: Step, tokens: torch.Tensor, *, prompt_logits: frozenset[int] = frozenset()) -> torch.Tensor:
        """Compute a step.

        Args:
            step: What to compute.
            tokens: [slots, max_len] ids of every sequence, prompt and generated.
            prompt_logits: Slots whose chunks give logits at every position, not only at the prompt's end.

        Returns:
            Float32 logits [R, V]: first one row per decoding sequence, then the rows of each chunk, in order: those before a
            scored token, or all of them if they were requested, or that of the prompt's end; then
            one row per twin, a copy of its leader's.
        """
        device = self.loaded.device
        slots = [s.slot for s in step.decodes]
        positions = [s.position for s in step.decodes]
        spots: list[Spot] = [(i, 1, position, i) for i, position in enumerate(positions)]
        wanted, ends = list(range(len(slots))), {}
        for chunk in step.chunks:
            slot, first = chunk.sequence.slot, len(slots)
            spots.append((first, chunk.length, chunk.start, len(spots)))
            slots += [slot] * chunk.length
            positions += range(chunk.start, chunk.start + chunk.length)
            if chunk.sequence.scored:
                wanted += [first + at for at in chunk.scored]
            elif slot in prompt_logits:
                wanted += range(first, first + chunk.length)
            elif chunk.last:
                wanted.append(first + chunk.length - 1)
                ends[slot] = len(wanted) - 1
        layout = step_layout(self.cache, spots, self._tables(step), decodes=len(step.decodes), compiled=self._compiled)
        slot_ids, position_ids = torch.tensor(slots, device=device), torch.tensor(positions, device=device)
        pad = max(MIN_ROWS, len(slots) if self._any_shape else _padded(len(slots))) - len(slots)
        ids = torch.cat([tokens[slot_ids, position_ids], slot_ids.new_zeros(pad)])
        keep = wanted + [0] * max(0, MIN_ROWS - len(wanted))
        logits: torch.Tensor = self.loaded.model(
            input_ids=ids[None], position_ids=torch.cat([position_ids, position_ids.new_zeros(pad)])[None],
            use_cache=False, logits_to_keep=torch.tensor(keep, device=device), layout=layout,
        ).logits[0]  # fmt: skip
        copy_twins(self.cache, step)
        rows = [*range(len(wanted)), *(ends[twin.leader.slot] for twin in step.twins)]
        return (logits[: len(wanted)] if not step.twins else logits[rows]).float()

    @staticmethod
    def _tables(step: Step) -> torch.Tensor:
        """The block numbers [R, W] of the step's sequences: first the decoding ones, then one row per chunk."""
        rows = [s.blocks for s in step.decodes] + [c.sequence.blocks for c in step.chunks]
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int32)


def copy_twins(cache: KVCache, step: Step) -> None:
    """Copy the leaders' last block for their twins, which will write their own positions into it; shared ones stay."""
    lasts = [(t.sequence.prompt_len - 1) // BLOCK for t in step.twins]
    pairs = [(t.leader.blocks[last], t.sequence.blocks[last]) for t, last in zip(step.twins, lasts, strict=True)]
    pairs = [(source, target) for source, target in pairs if source != target]
    if pairs:
        cache.copy(*zip(*pairs, strict=True))


def _padded(tokens: int) -> int:
    """Round up a step's number of tokens, so that there are few distinct shapes."""
    unit = _FINE if tokens <= 32 else _COARSE
    return -(-tokens // unit) * unit
