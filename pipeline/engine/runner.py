"""The tensors of a step: token ids in, logits of the positions that are asked for out.

All tokens of a step, of whatever sequence, form one row of the model's input: linears see exactly the live tokens, and
attention finds each token's place in the layout. It does not know how tokens are chosen.
"""

from __future__ import annotations

import torch

from pipeline.engine.attention import ChunkLayout, DecodeLayout, StepLayout
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
        self._make_room(step)
        slots = [s.slot for s in step.decodes]
        positions = [s.prompt_len + len(s.generated) - 1 for s in step.decodes]
        decodes, wanted = self._decode_layouts(slots, positions), list(range(len(slots)))
        chunks = []
        for chunk in step.chunks:
            slot, first = chunk.sequence.slot, len(slots)
            slots += [slot] * chunk.length
            positions += range(chunk.start, chunk.start + chunk.length)
            mask = self._masks[chunk.length]
            chunks.append(ChunkLayout(first, chunk.length, self.cache.place(slot), chunk.start, mask))
            if slot in prompt_logits:
                wanted += range(first, first + chunk.length)
            elif chunk.last:
                wanted.append(first + chunk.length - 1)
        device = self.loaded.device
        slot_ids, position_ids = torch.tensor(slots, device=device), torch.tensor(positions, device=device)
        rows = self.cache.flat_rows(slots, position_ids)
        layout = StepLayout(self.cache, len(slots), rows, decodes, chunks)
        pad = _padded(len(slots)) - len(slots)
        ids = torch.cat([tokens[slot_ids, position_ids], slot_ids.new_zeros(pad)])
        keep = wanted + [0] * max(0, MIN_ROWS - len(wanted))
        logits: torch.Tensor = self.loaded.model(
            input_ids=ids[None], position_ids=torch.cat([position_ids, position_ids.new_zeros(pad)])[None],
            use_cache=False, logits_to_keep=torch.tensor(keep, device=device), layout=layout,
        ).logits[0]  # fmt: skip
        return logits[: len(wanted)].float()

    def _make_room(self, step: Step) -> None:
        """Give every sequence of the step the place that its next positions need; prompts get theirs at once."""
        self.cache.compact()
        for sequence in step.decodes:
            self.cache.reserve(sequence.slot, sequence.prompt_len + len(sequence.generated))
        for chunk in step.chunks:
            self.cache.reserve(chunk.sequence.slot, chunk.sequence.prompt_len)

    def _decode_layouts(self, slots: list[int], positions: list[int]) -> list[DecodeLayout]:
        """Sort the decoding tokens, in the order of `slots`, by length class."""
        device = self.loaded.device
        groups: dict[int, list[tuple[int, int, int]]] = {}
        for token, (slot, position) in enumerate(zip(slots, positions, strict=True)):
            number, row = self.cache.place(slot)
            groups.setdefault(number, []).append((row, token, position))
        layouts = []
        for number, members in sorted(groups.items()):
            count = max(row for row, _, _ in members) + 1
            tokens, last = [0] * count, [0] * count
            for row, token, position in members:
                tokens[row], last[row] = token, position
            span = torch.arange(self.cache.classes[number].capacity, device=device)
            mask = span > torch.tensor(last, device=device)[:, None]
            live, live_tokens = (torch.tensor([m[i] for m in members], device=device) for i in (0, 1))
            layouts.append(
                DecodeLayout(number, torch.tensor(tokens, device=device), live, live_tokens, mask[:, None, None])
            )
        return layouts


def _padded(tokens: int) -> int:
    """Tokens of a step with the padding that keeps the number of distinct shapes small."""
    unit = _FINE if tokens <= 32 else _COARSE
    return max(MIN_ROWS, -(-tokens // unit) * unit)
