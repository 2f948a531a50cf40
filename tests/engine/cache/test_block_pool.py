"""The pool of blocks against a simple model of it, and the digests that name a prefix."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.engine.cache.block_pool import BLOCK, BlockPool, blocks_for, prefix_digests
from tests.example_counts import examples

DIGESTS = [bytes([i]) for i in range(6)]
SOME = st.lists(st.sampled_from(DIGESTS), unique=True, max_size=4)


class PoolMachine(RuleBasedStateMachine):
    """Random lives of blocks. The model has each block in exactly one of three states, with plain containers."""

    @initialize(blocks=st.integers(1, 8))
    def start(self, blocks: int) -> None:
        self.pool, self.blocks = BlockPool(blocks), blocks
        self.free = set(range(blocks))
        self.uses: dict[int, int] = {}  # used block → users
        self.idle: list[int] = []  # remembered, unused; the oldest first
        self.content: dict[int, bytes] = {}
        self.wanted: list[list[bytes]] = []

    def holder(self, digest: bytes) -> int | None:
        return next((b for b, d in self.content.items() if d == digest), None)

    def is_wanted(self, digest: bytes) -> bool:
        return any(digest in some for some in self.wanted)

    def tidy(self) -> None:
        """What nobody uses and nobody wants is forgotten."""
        for block in [b for b in self.idle if not self.is_wanted(self.content[b])]:
            self.idle.remove(block)
            self.free.add(block)
            del self.content[block]

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.free) + len(self.idle)))
        evicted = self.idle[: max(0, count - len(self.free))]
        taken = self.pool.take(count)
        assert len(set(taken)) == count and set(taken) <= self.free | set(evicted)
        for block in evicted:  # no more than had to be, the oldest first
            self.idle.remove(block)
            del self.content[block]
        self.free = (self.free | set(evicted)) - set(taken)
        self.uses |= dict.fromkeys(taken, 1)

    @rule(digest=st.sampled_from(DIGESTS))
    def share(self, digest: bytes) -> None:
        block = self.holder(digest)
        assert self.pool.share(digest) == block
        if block is not None:
            self.uses[block] = self.uses.get(block, 0) + 1
            self.idle = [b for b in self.idle if b != block]

    @precondition(lambda self: any(b not in self.content for b in self.uses))
    @rule(data=st.data(), digest=st.sampled_from(DIGESTS))
    def remember(self, data: st.DataObject, digest: bytes) -> None:
        block = data.draw(st.sampled_from(sorted(b for b in self.uses if b not in self.content)))
        self.pool.remember(block, digest)
        if self.holder(digest) is None:  # the first to hold it stays the one
            self.content[block] = digest

    @precondition(lambda self: self.uses)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(sorted(self.uses)), unique=True))
        self.pool.give_back(some)
        for block in some:
            self.uses[block] -= 1
            if not self.uses[block]:
                del self.uses[block]
                (self.idle.append if block in self.content else self.free.add)(block)
        self.tidy()

    @rule(some=SOME)
    def want(self, some: list[bytes]) -> None:
        self.pool.want(some)
        self.wanted.append(some)

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def unwant(self, data: st.DataObject) -> None:
        some = self.wanted.pop(data.draw(st.integers(0, len(self.wanted) - 1)))
        self.pool.unwant(some)
        self.tidy()

    @rule()
    def forget_all(self) -> None:
        self.pool.forget_all()
        self.free |= set(self.idle)
        self.idle, self.content = [], {}

    @invariant()
    def everything_is_somewhere(self) -> None:
        assert self.pool.available + len(self.uses) == self.blocks
        assert self.pool.available == len(self.free) + len(self.idle)
        assert max(Counter(self.content.values()).values(), default=1) == 1

    def teardown(self) -> None:
        """Once nobody uses or wants anything, nothing is left, and each block can be had again."""
        if not hasattr(self, "pool"):
            return
        for block, users in self.uses.items():
            for _ in range(users):
                self.pool.give_back([block])
        for some in self.wanted:
            self.pool.unwant(some)
        assert [self.pool.share(d) for d in DIGESTS] == [None] * len(DIGESTS)
        assert sorted(self.pool.take(self.blocks)) == list(range(self.blocks))
        assert self.pool.available == 0


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=examples(200), stateful_step_count=40, deadline=None)


def test_more_than_there_is_cannot_be_taken_or_given_back() -> None:
    pool = BlockPool(2)
    with pytest.raises(AssertionError):
        pool.take(3)
    pool.give_back(pool.take(2))
    with pytest.raises(AssertionError):
        pool.give_back([0])


@given(st.integers(0, 10_000))
def test_blocks_are_rounded_up(tokens: int) -> None:
    assert (blocks_for(tokens) - 1) * BLOCK < tokens <= blocks_for(tokens) * BLOCK


IDS = st.sampled_from([0, 1, 50256, 2**31, 2**40])


@given(st.lists(IDS, min_size=1, max_size=5 * BLOCK), st.data())
def test_a_digest_names_all_tokens_up_to_its_block(prompt: list[int], data: st.DataObject) -> None:
    digests = prefix_digests(prompt)
    assert len(digests) == (len(prompt) - 1) // BLOCK  # the last token is always computed: its logits are wanted
    assert len(set(digests)) == len(digests)
    other = [*prompt, *data.draw(st.lists(IDS, max_size=BLOCK))]
    assert prefix_digests(tuple(other))[: len(digests)] == digests
    place = data.draw(st.integers(0, len(prompt) - 1))
    other[place] += 1
    changed = prefix_digests(other)
    for number, digest in enumerate(digests):
        assert (changed[number] == digest) == ((number + 1) * BLOCK <= place)


def test_a_digest_tells_tokens_apart_from_their_bytes() -> None:
    """Two small ids are not one large one, and the order counts."""
    filler = [0] * BLOCK
    prompts = [[1, 0, *filler], [0, 1, *filler], [2**32, 0, *filler], [256, 0, *filler]]
    assert len({prefix_digests(p) for p in prompts}) == len(prompts)
