"""One request on its way through the engine: its progress, and what it still needs.

It holds no tensors: its tokens, noise and statistics live in its slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.types import Request


@dataclass(eq=False)
class Sequence:
    """A request with its progress.

    Attributes:
        request: The request.
        max_new: Tokens it may generate: `max_tokens`, clamped to what the context leaves; 0 if it is scored.
        slot: Its slot in the batch, or -1 while it waits.
        blocks: Its blocks of the KV cache, in the order of positions; some may be shared.
        digests: Of the prompt's blocks that others may share; empty where nothing is shared.
        prefilled: Prompt tokens whose keys and values are in the cache.
        generated: Generated ids so far.
        in_flight: Number of further tokens that are being computed and not known yet.
        needs_last: Whether the mask of the next token depends on the last one, which then must be known first.
    """

    request: Request
    max_new: int
    slot: int = -1
    blocks: list[int] = field(default_factory=list)
    digests: tuple[bytes, ...] = ()
    prefilled: int = 0
    generated: list[int] = field(default_factory=list)
    in_flight: int = 0
    needs_last: bool = False

    @property
    def prompt_len(self) -> int:
        """Number of prompt tokens; of a sequence that is scored, those that the model reads."""
        return self.request.read

    @property
    def scored(self) -> bool:
        """Whether its tokens are given and scored, and none is generated."""
        return self.request.scored_from is not None

    @property
    def decoding(self) -> bool:
        """Whether the whole prompt is in the cache, so that each step gives one token."""
        return self.prefilled == self.prompt_len

    @property
    def asked(self) -> int:
        """Tokens that have been generated or are being computed."""
        return len(self.generated) + self.in_flight

    @property
    def position(self) -> int:
        """Position of the last token, whose keys and values the next decoding step computes."""
        return self.prompt_len + self.asked - 1

    @property
    def steppable(self) -> bool:
        """Whether the next step can give it a token: it decodes, is not done, and knows the last token if it needs that."""
        return (
            self.decoding and not self.scored and self.asked < self.max_new and not (self.needs_last and self.in_flight)
        )

    @property
    def blocks_needed(self) -> int:
        """Blocks for the prompt and all tokens it may generate, except the last one, which is not fed back."""
        return blocks_for(self.prompt_len + max(self.max_new, 1) - 1)

    @property
    def tokens_left(self) -> int:
        """Most tokens that are still to be computed before it ends."""
        return self.prompt_len - self.prefilled + self.max_new - len(self.generated)

    def next_chunk(self) -> int:
        """Number of tokens in the next prefill chunk: up to the next multiple of BLOCK or the prompt's end."""
        return min(BLOCK - self.prefilled % BLOCK, self.prompt_len - self.prefilled)

    def restart(self) -> None:
        """Forget all progress; the same request gives the same bits again."""
        self.slot, self.blocks, self.prefilled, self.generated, self.in_flight = -1, [], 0, [], 0
