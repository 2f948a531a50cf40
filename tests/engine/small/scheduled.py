"""Drives a scheduler as the engine does, over blocks whose every place says which prefix it holds, and checks every step."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.engine.cache.block_pool import BLOCK, BlockPool
from pipeline.engine.scheduler import FEW, Scheduler, Step
from pipeline.engine.sequence import Sequence
from tests.engine.small.tiny_models import request

Place = tuple[int, int]
"""Block and offset."""


def sequence(name: str, prompt: int | list[int], new: int) -> Sequence:
    ids = [1] * prompt if isinstance(prompt, int) else prompt
    return Sequence(request(name, ids, max_tokens=new), new)


class Run:
    """A scheduler, and a cache of which only the meaning is kept."""

    def __init__(self, slots: int, budget: int, blocks: int = 10_000, *, share: bool = True) -> None:
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(slots, budget, self.pool, share=share)
        self.slots, self.budget, self.blocks, self.most = slots, budget, blocks, slots
        self.content: dict[Place, object] = {}
        self.prefixes: dict[tuple[int, int], int] = {}
        self.everyone: list[Sequence] = []
        self.order: list[Sequence] = []
        self.computed: dict[Sequence, set[int]] = {}
        self.twins = self.steps = 0

    def add(self, sequences: list[Sequence]) -> None:
        self.everyone += sequences
        self.scheduler.add(sequences)

    @property
    def tokens(self) -> int:
        """Prompt positions computed so far."""
        return sum(len(some) for some in self.computed.values())

    def meaning(self, one: Sequence) -> list[object]:
        """What the places of a sequence must hold: the name of the prefix that ends there, then what it generated itself."""
        names, name = list[object](), 0
        for token in one.request.prompt_token_ids:
            name = self.prefixes.setdefault((name, token), len(self.prefixes) + 1)
            names.append(name)
        return names + [(one.request.row_id, i) for i in range(len(one.generated) - 1)]

    @staticmethod
    def place(one: Sequence, position: int) -> Place:
        return one.blocks[position // BLOCK], position % BLOCK

    def step(self, *, fail_after: int | None = None) -> None:
        """One step; with `fail_after`, memory is out once that many of its writes are done."""
        scheduler, free, waiting = self.scheduler, self.slots - len(self.scheduler.running), self.scheduler.waiting
        available, head = self.pool.available, scheduler._waiting[0] if waiting else None
        admitted, step = scheduler.schedule()
        self.order += [s for s in admitted if s not in self.order]  # by when each was first admitted
        if head is not None and not admitted and len(scheduler.running) < min(self.most, self.slots, FEW):
            assert head.blocks_needed > available  # nothing else keeps anyone waiting while few run
        assert admitted == [] or len(admitted) <= min(free, waiting)
        self.check_slots()
        self.check_tokens(step)
        writes = list(self.writes(step))
        places = [place for place, _ in writes]
        assert len(set(places)) == len(places)
        if fail_after is not None:
            self.content.update(dict(writes[:fail_after]))
            self.fail()
            return
        self.content.update(dict(writes))
        self.check_reads(step)
        self.finish(step)
        self.steps += 1

    def check_slots(self) -> None:
        running = self.scheduler.running
        assert len(running) <= min(self.slots, self.most)
        assert all(0 <= slot < self.slots and s.slot == slot for slot, s in running.items())
        assert all(len(set(s.blocks)) == len(s.blocks) == s.blocks_needed for s in running.values())
        used = {block for s in running.values() for block in s.blocks}
        assert len(used) + self.pool.available == self.blocks  # a block is in use, or can be had

    def check_tokens(self, step: Step) -> None:
        """Whoever has read the prompt decodes; the others read on, on the grid, within the budget."""
        running = list(self.scheduler.running.values())
        assert set(step.decodes) == {s for s in running if s.generated}
        reading = [s for s in running if not s.generated]
        assert bool(step.chunks) == bool(reading)  # a step with prompts to read always takes a chunk
        for chunk in step.chunks:
            one, start, end = chunk.sequence, chunk.start, chunk.start + chunk.length
            assert one in reading and chunk.length >= 1
            assert start // BLOCK == (end - 1) // BLOCK  # no chunk crosses the grid
            assert start % BLOCK == 0 and (end % BLOCK == 0 or end == one.prompt_len)  # and none stops short of it
            assert chunk.last == (end == one.prompt_len)
            done = self.computed.setdefault(one, set())
            assert not done & set(range(start, end)), "computed twice"
            done |= set(range(start, end))
        assert len(step.decodes) + sum(c.length for c in step.chunks) <= self.budget or len(step.chunks) <= 1
        ending = {c.sequence for c in step.chunks if c.last}
        for twin in step.twins:
            assert twin.leader in ending and twin.sequence not in ending
            assert twin.leader.request.prompt_token_ids == twin.sequence.request.prompt_token_ids
        self.twins += len(step.twins)
        choosing = step.choosing
        assert len(set(choosing)) == len(choosing) and {s for s in running if s.decoding} == set(choosing)

    def writes(self, step: Step) -> Iterable[tuple[Place, object]]:
        for one in step.decodes:
            position = one.prompt_len + len(one.generated) - 1
            assert sum(one.blocks[position // BLOCK] in s.blocks for s in self.scheduler.running.values()) == 1
            yield self.place(one, position), (one.request.row_id, len(one.generated) - 1)
        for chunk in step.chunks:
            names = self.meaning(chunk.sequence)
            for position in range(chunk.start, chunk.start + chunk.length):
                yield self.place(chunk.sequence, position), names[position]

    def check_reads(self, step: Step) -> None:
        """Every position that a token attends to holds what it must, whoever wrote it; all was written before."""
        ends = [(s, s.prompt_len + len(s.generated)) for s in step.decodes]
        ends += [(c.sequence, c.start + c.length) for c in step.chunks]
        for one, end in ends:
            names = [*self.meaning(one), (one.request.row_id, len(one.generated) - 1)]
            assert [self.content.get(self.place(one, p)) for p in range(end)] == names[:end]

    def finish(self, step: Step) -> None:
        for twin in step.twins:
            last = (twin.sequence.prompt_len - 1) // BLOCK
            for offset in range(BLOCK):
                source = self.content.get((twin.leader.blocks[last], offset))
                self.content[twin.sequence.blocks[last], offset] = source
        for one in step.choosing:
            one.generated.append(1)
            if len(one.generated) == one.max_new:
                self.scheduler.release(one)
                assert one.slot == -1 and one.blocks == []

    def fail(self) -> None:
        """Memory is out: everything that runs starts again, in its order, half as much at once."""
        running, waiting = list(self.scheduler.running.values()), list(self.scheduler._waiting)
        assert self.scheduler.lower() == (len(running) > 1)
        self.most = max(1, len(running) // 2)
        assert list(self.scheduler._waiting) == [*running, *waiting] and not self.scheduler.running
        assert self.pool.available == self.blocks
        for one in running:
            assert (one.slot, one.blocks, one.prefilled, one.generated) == (-1, [], 0, [])
            self.computed.pop(one, None)

    def check_memory(self) -> None:
        """Whatever is remembered is in use, or wanted by someone who waits."""
        used = {block for s in self.scheduler.running.values() for block in s.blocks}
        wanted = {digest for s in self.scheduler._waiting for digest in s.digests}
        for digest in {digest for s in self.everyone for digest in s.digests} - wanted:
            block = self.pool.share(digest)
            if block is not None:
                assert block in used
                self.pool.give_back([block])

    def until_idle(self) -> None:
        while self.scheduler.running or self.scheduler.waiting:
            self.step()
        self.check_memory()
        assert self.pool.available == self.blocks
        assert all(len(s.generated) == s.max_new for s in self.everyone)
