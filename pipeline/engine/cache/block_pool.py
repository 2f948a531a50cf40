"""Manages the blocks of the KV cache: which are free, in use, or cached for their content.

A block holds the keys and values of BLOCK positions. A block that a prompt fills completely is cached under a digest of
all tokens up to its end, so that a prompt with the same beginning can use it too. Without a user, it stays cached only while
a waiting prompt needs it, so no memory is wasted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

BLOCK = 32
"""Positions per block. Prompts are read in chunks on the same grid, so a block's content depends on its prefix alone."""


def blocks_for(tokens: int) -> int:
    """Return the number of blocks that hold this many positions."""
    return -(-tokens // BLOCK)


def prefix_digests(prompt: Sequence[int]) -> tuple[bytes, ...]:
    """Return a digest for each block that the prompt fills and goes beyond: of all tokens up to the block's last.

    The block with the last token is left out, because that token's logits are needed, and blocks do not hold logits.
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
        self._free = list(range(blocks - 1, -1, -1))  # last in, first out: its memory is already mapped
        self._users = [0] * blocks
        self._holder: dict[bytes, int] = {}
        self._digest: dict[int, bytes] = {}
        self._idle: dict[int, None] = {}  # cached without a user, oldest first
        self._wanted: Counter[bytes] = Counter()

    @property
    def available(self) -> int:
        """Number of blocks that `take` can give."""
        return len(self._free) + len(self._idle)

    def take(self, count: int) -> list[int]:
        """Return `count` blocks with arbitrary content; if no block is free, evict the oldest idle ones."""
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
        """Become a user of the block with this content; None if there is none."""
        block = self._holder.get(digest)
        return None if block is None else self.use(block)

    def use(self, block: int) -> int:
        """Become a user of a block that is in use or cached, and return it."""
        self._users[block] += 1
        self._idle.pop(block, None)
        return block

    def remember(self, block: int, digest: bytes) -> None:
        """Record the content of a block in use; in each layer, reads of the same step may use it already."""
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
        """Announce a prompt that will need the blocks of these digests."""
        self._wanted.update(digests)

    def unwant(self, digests: Iterable[bytes]) -> None:
        """Withdraw an announcement."""
        for digest in digests:
            self._wanted[digest] -= 1
            if not self._wanted[digest]:
                del self._wanted[digest]
                block = self._holder.get(digest)
                if block in self._idle:
                    self._forget(block)

    def forget_all(self) -> None:
        """Forget all content, also of blocks in use: a step that failed may not have written it."""
        for block in list(self._digest):
            self._forget(block)

    def _forget(self, block: int) -> None:
        """Forget a block's content, and free it if it has no user."""
        del self._holder[self._digest.pop(block)]
        if block in self._idle:
            del self._idle[block]
            self._free.append(block)
