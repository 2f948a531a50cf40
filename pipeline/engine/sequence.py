"""One request on its way through the continuous engine: where it is and what it still needs.

It does not know tensors: its tokens, noise and statistics live in the slot that it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.types import Request

CHUNK = 32
"""Prefill works on a grid of this many positions, so that a chunk's arithmetic depends on the prompt alone."""


@dataclass(eq=False)
class Sequence:
    """A request with its progress.

    Attributes:
        request: What was asked.
        max_new: Tokens it may generate: `max_tokens`, clamped to what the context leaves.
        slot: Its place in the batch and the KV cache, or -1 while it waits.
        prefilled: Prompt tokens whose keys and values are in the cache.
        generated: Generated ids so far.
    """

    request: Request
    max_new: int
    slot: int = -1
    prefilled: int = 0
    generated: list[int] = field(default_factory=list)

    @property
    def prompt_len(self) -> int:
        """Number of prompt tokens."""
        return len(self.request.prompt_token_ids)

    @property
    def decoding(self) -> bool:
        """Whether the whole prompt is in the cache, so that each step gives one token."""
        return self.prefilled == self.prompt_len

    def next_chunk(self) -> int:
        """Number of tokens in the next prefill chunk: up to the next multiple of CHUNK or the prompt's end."""
        return min(CHUNK - self.prefilled % CHUNK, self.prompt_len - self.prefilled)
