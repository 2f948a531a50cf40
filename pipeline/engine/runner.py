"""The tensors of a step: token ids in, logits of the positions that are asked for out.

All tokens of a step, of whatever sequence, form one row of the model's input: linears see exactly the live tokens, and
attention finds each token's place in the layout. It does not know how tokens are chosen.
"""

from __future__ import annotations

import torch

from pipeline.engine.attention import KV_BLOCK, ChunkLayout, StepLayout
from pipeline.engine.kv_cache import KVCache
from pipeline.engine.linear import MIN_ROWS
from pipeline.engine.model import LoadedModel
from pipeline.engine.scheduler import Step
from pipeline.engine.sequence import CHUNK

_FINE, _COARSE = 4, 8
"""Steps of the token count: few distinct shapes, since a kernel is prepared for each."""


class ModelRunner:
    """Runs steps over one model and its slot cache."""

    def __init__(self, loaded: LoadedModel, slots: int, max_len: int) -> None:
        """Make the cache for `slots` sequences of `max_len` tokens."""
        self.loaded, self.slots, self.max_len = loaded, slots, max_len
        self.cache = KVCache(
            loaded.layers, slots, loaded.kv_heads, max_len, loaded.head_dim, loaded.dtype, loaded.device
        )
        ones = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=loaded.device)
        self._masks = [ones[:n, :n].triu(1) for n in range(CHUNK + 1)]

    @torch.inference_mode()
    def run(self, step: Step, tokens: torch.Tensor, *, prompt_logits: frozenset[int] = frozenset()) -> torch.Tensor:
        """Compute a step.

        Args:
            step: What to compute.
            tokens: [slots, max_len] ids of every sequence, prompt and generated.
            prompt_logits: Slots whose chunks give logits at every position, not only at the prompt's end.

        Returns:
            Float32 logits [R, V]: first one row a decoding sequence, then for each chunk the rows asked for, in order.
        """
        slots = [s.slot for s in step.decodes]
        positions = [s.prompt_len + len(s.generated) - 1 for s in step.decodes]
        decoding, wanted = len(slots), list(range(len(slots)))
        chunks = []
        for chunk in step.chunks:
            slot, first = chunk.sequence.slot, len(slots)
            slots += [slot] * chunk.length
            positions += range(chunk.start, chunk.start + chunk.length)
            chunks.append(ChunkLayout(first, chunk.length, slot, chunk.start, self._masks[chunk.length]))
            if slot in prompt_logits:
                wanted += range(first, first + chunk.length)
            elif chunk.last:
                wanted.append(first + chunk.length - 1)
        device = self.loaded.device
        slot_ids, position_ids = torch.tensor(slots, device=device), torch.tensor(positions, device=device)
        lengths = [-(-(p + 1) // KV_BLOCK) * KV_BLOCK for p in positions[:decoding]]
        lengths = [min(n, self.max_len) for n in lengths]
        span = torch.arange(max(lengths, default=0), device=device)
        mask = (span > position_ids[:decoding, None])[:, None, None]
        rows = self.cache.rows(slot_ids, position_ids)
        layout = StepLayout(self.cache, len(slots), rows, slots[:decoding], lengths, mask, chunks)
        pad = _padded(len(slots)) - len(slots)
        ids = torch.cat([tokens[slot_ids, position_ids], slot_ids.new_zeros(pad)])
        keep = wanted + [0] * max(0, MIN_ROWS - len(wanted))
        logits: torch.Tensor = self.loaded.model(
            input_ids=ids[None], position_ids=torch.cat([position_ids, position_ids.new_zeros(pad)])[None],
            use_cache=False, logits_to_keep=torch.tensor(keep, device=device), layout=layout,
        ).logits[0]  # fmt: skip
        return logits[: len(wanted)].float()


def _padded(tokens: int) -> int:
    """Tokens of a step with the padding that keeps the number of distinct shapes small."""
    unit = _FINE if tokens <= 32 else _COARSE
    return max(MIN_ROWS, -(-tokens // unit) * unit)
