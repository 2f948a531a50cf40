"""Which blocks of the KV cache are free, used, or remembered for what they hold.

A block holds the keys and values of BLOCK positions. A block that a prompt fills to its end is remembered by a digest of
all tokens up to there, so that a prompt that begins alike uses it too. It stays remembered without a user only while a
waiting prompt wants it: no memory is spent on what nobody will ask for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

BLOCK = 32
"""Positions a block; also the grid on which prompts are read, so that a block's content follows from its prefix alone."""


def blocks_for(tokens: int) -> int:
    """Blocks that hold a number of positions."""
    return -(-tokens // BLOCK)


def prefix_digests(prompt: Sequence[int]) -> tuple[bytes, ...]:
    """A digest for each block that the prompt fills and goes beyond: of all tokens from the first to the block's last.

    The block with the last token is left out, as its logits are wanted, which no block holds.
    """
    count = (len(prompt) - 1) // BLOCK
    data, digest, digests = np.asarray(prompt[: count * BLOCK], dtype="<i8").tobytes(), b"", []
    size = 8 * BLOCK
    for i in range(count):
        digest = hashlib.blake2b(digest + data[i * size : (i + 1) * size], digest_size=16).digest()
        digests.append(digest)
    return tuple(digests)


class BlockPool:
    """Hands out blocks, counts their users and remembers their content.

    Args:
        blocks: How many there are.
    """

    def __init__(self, blocks: int) -> None:
        """Start with every block free."""
        self.blocks = blocks
        self._free = list(range(blocks - 1, -1, -1))  # the last given back is the first taken: its memory is in use
        self._users = [0] * blocks
        self._holder: dict[bytes, int] = {}
        self._digest: dict[int, bytes] = {}
        self._idle: dict[int, None] = {}  # remembered, without a user, the oldest first
        self._wanted: Counter[bytes] = Counter()

    @property
    def available(self) -> int:
        """Blocks that `take` can give."""
        return len(self._free) + len(self._idle)

    def take(self, count: int) -> list[int]:
        """Give `count` blocks of no particular content, forgetting the oldest idle ones when no other is free."""
        assert count <= self.available
        taken = []
        for _ in range(count):
            if not self._free:
                self._forget(next(iter(self._idle)))
            block = self._free.pop()
            self._users[block] = 1
            taken.append(block)
        return taken

    def share(self, digest: bytes) -> int | None:
        """Become a user of the block with this content; null if there is none."""
        block = self._holder.get(digest)
        if block is not None:
            self._users[block] += 1
            self._idle.pop(block, None)
        return block

    def remember(self, block: int, digest: bytes) -> None:
        """Tell what a used block holds, from the next layer of computation on."""
        assert self._users[block] and block not in self._digest
        if digest not in self._holder:
            self._holder[digest], self._digest[block] = block, digest

    def give_back(self, blocks: Iterable[int]) -> None:
        """End one use of each block."""
        for block in blocks:
            self._users[block] -= 1
            assert self._users[block] >= 0
            if self._users[block]:
                continue
            digest = self._digest.get(block)
            if digest is None:
                self._free.append(block)
            else:
                self._idle[block] = None
                if not self._wanted[digest]:
                    self._forget(block)

    def want(self, digests: Iterable[bytes]) -> None:
        """Announce a prompt that will ask for these."""
        self._wanted.update(digests)

    def unwant(self, digests: Iterable[bytes]) -> None:
        """Take an announcement back."""
        for digest in digests:
            self._wanted[digest] -= 1
            if not self._wanted[digest]:
                del self._wanted[digest]
                block = self._holder.get(digest)
                if block in self._idle:
                    self._forget(block)

    def forget_all(self) -> None:
        """Forget every content, of used blocks too: a step that failed may not have written what it was going to."""
        for block in list(self._digest):
            self._forget(block)

    def _forget(self, block: int) -> None:
        """Forget a block's content, and free it if it has no user."""
        del self._holder[self._digest.pop(block)]
        if block in self._idle:
            del self._idle[block]
            self._free.append(block)
