"""Steps on a GPU: of fixed shapes, recorded once and replayed, with the tokens kept on the device from step to step.

The host sends a few numbers per step, and fetches the results of the previous one. The recordings include sampling, noise
and statistics. Masks and penalties, which only some sequences have, are launched between them.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch

from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.config import StatsConfig
from pipeline.engine.device import upload
from pipeline.engine.gpu.attention import SPLIT, DeviceStep
from pipeline.engine.layers.attention import DeviceLayout
from pipeline.engine.layers.sampler import sample
from pipeline.engine.layers.stats import Distribution, compute, wanted
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.scheduler import Step
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.eager import choosing_rows, prompt_logprobs, scored_tokens
from pipeline.engine.steps.flight import Flight, Outcome, Scores
from pipeline.engine.steps.recording import Recordings, fetch
from pipeline.engine.steps.runner import ModelRunner, copy_twins
from pipeline.engine.steps.shapes import (
    TOKENS_A_CHUNK,
    Fields,
    Shape,
    pack_rows,
    pack_tokens,
    rounded,
    shape_of,
    whole_splits,
)
from pipeline.engine.steps.slots import SlotState

_STEP, _SAMPLING = "a step of the model", "the choice of tokens"
_ALIGNED = 64
"""Rows of logits start at multiples of this many elements, so that loads and stores can be wide."""


class _Tokens:
    """The inputs of a recorded step, on the device.

    Args:
        shape: The step's shape.
        tables: [slots + 1, W] int32: the blocks of every slot.
        rows: Most sequences that can decode at once.
    """

    def __init__(self, shape: Shape, tables: torch.Tensor, rows: int) -> None:
        """Allocate the memory."""
        fields = Fields(shape)
        self.packed = torch.zeros(fields.size, dtype=torch.int32, device=tables.device)
        self.slots, self.positions, self.keep = (
            self.packed[part] for part in (fields.slots, fields.positions, fields.keep)
        )
        self.attention = DeviceStep(
            slots=self.slots, positions=self.positions, decodes=self.packed[fields.decodes],
            chunks=self.packed[fields.chunks].view(-1, 4), tables=tables, rows=min(shape.tokens, rows),
            splits=shape.splits,
        )  # fmt: skip


class GraphStepper:
    """Computes steps by replaying recordings; see `Stepper`.

    Args:
        runner: The model with its cache.
        state: The state of the slots.
        stats: Which statistics to compute.
    """

    def __init__(self, runner: ModelRunner, state: SlotState, stats: StatsConfig) -> None:
        """Allocate the memory that every step uses."""
        self._runner, self._state, self._stats = runner, state, stats
        loaded, slots = runner.loaded, runner.slots
        self._device, self._unit = loaded.device, loaded.row_unit
        self._tables = torch.zeros(slots + 1, blocks_for(runner.max_len), dtype=torch.int32, device=self._device)
        self._vocab_size, self._most = loaded.vocab_size, rounded(slots, self._unit)
        self._logits = self._rows_of_logits()
        self._constrained: torch.Tensor | None = None
        self._tokens: dict[Shape, _Tokens] = {}
        self._rows: dict[int, torch.Tensor] = {}
        self._recordings = Recordings(self._device)

    def admit(self, admitted: Seq[tuple[Sequence, StopWatch | None]]) -> None:
        """Admit sequences; see `Stepper.admit`."""
        self._state.admit(admitted)

    def launch(self, step: Step) -> Flight:
        """Start a step; see `Stepper.launch`."""
        self._place([*(c.sequence for c in step.chunks), *(t.sequence for t in step.twins)])
        shape = shape_of(step, self._unit, SPLIT)
        if shape not in self._tokens:
            self._tokens[shape] = _Tokens(shape, self._tables, self._runner.slots)
        tokens = self._tokens[shape]
        tokens.packed.copy_(upload(pack_tokens(step, shape, self._state.slots), np.int32, self._device))
        if step.scores:
            scores = self._run_scored(step, tokens)
            return Flight([], lambda: Outcome(scores=scores))
        read: list[tuple[Sequence, torch.Tensor]] = []
        if self._stats.prompt_logprobs and step.chunks:
            read = self._run_with_prompts(step, tokens)
        else:
            self._recordings.run(_STEP, shape, lambda: self._run(tokens))
        copy_twins(self._runner.cache, step)
        if not step.choosing:
            return Flight([], lambda: Outcome(prompt_logprobs=read))
        return self._choose(step.choosing, shape.choosing, read)

    def shed(self) -> bool:
        """See `Stepper.shed`: recordings, and the inputs and outputs that they hold in place."""
        self._tokens.clear()
        self._rows.clear()
        self._constrained = None
        return self._recordings.drop()

    def rehearse(self, most_tokens: int) -> None:
        """Compute the largest possible step, of idle tokens, kernel by kernel.

        Args:
            most_tokens: Most tokens of a step.
        """
        slots, longest = self._runner.slots, self._tables.shape[1]
        # a step with prompts to read takes at least a chunk, however many sequences decode
        count = rounded(max(most_tokens, slots + BLOCK), self._unit)
        shape = Shape(count, count // TOKENS_A_CHUNK, self._most, whole_splits(longest, SPLIT))
        tokens = _Tokens(shape, self._tables, slots)
        tokens.packed.copy_(upload(pack_tokens(Step([], [], []), shape, self._state.slots), np.int32, self._device))
        self._run(tokens)
        if self._stats.prompt_logprobs:
            everyone = torch.arange(count, device=self._device)
            torch.log_softmax(self._model(tokens, everyone).float(), -1)
        rows = upload(pack_rows([], self._most, self._state.slots), np.int32, self._device)
        for truncates, all_greedy in ((True, False), (False, False), (False, True)):  # each has kernels of its own
            self._sample(rows, False, truncates, all_greedy)

    def _rows_of_logits(self) -> torch.Tensor:
        """Allocate the logits of every slot, [most, V], each row at an aligned address."""
        width = -(-self._vocab_size // _ALIGNED) * _ALIGNED
        return torch.zeros(self._most, width, device=self._device)[:, : self._vocab_size]

    def _place(self, sequences: Seq[Sequence]) -> None:
        """Copy the block tables of sequences in prefill to the device. They do not change later."""
        held = {s.slot: s.blocks for s in sequences}
        if held:
            rows = np.zeros((len(held), self._tables.shape[1]), np.int32)
            for row, blocks in zip(rows, held.values(), strict=True):
                row[: len(blocks)] = blocks
            slots = upload(list(held), np.int64, self._device)
            self._tables[slots] = upload(rows, np.int32, self._device)

    def _model(self, tokens: _Tokens, keep: torch.Tensor) -> torch.Tensor:
        """Return the model's logits [B, V] at the tokens `keep` of a step."""
        positions = tokens.positions.long().clamp(min=0)
        ids = self._state.tokens[tokens.slots.long(), positions]
        logits: torch.Tensor = self._runner.loaded.model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=keep,
            layout=DeviceLayout(self._runner.cache, tokens.attention),
        ).logits[0]  # fmt: skip
        return logits

    def _run(self, tokens: _Tokens) -> None:
        """Compute a step's keys, values and logits."""
        count = len(tokens.keep)
        # if no sequence chooses, the output layer still needs an input
        keep = tokens.keep.long() if count else tokens.slots.new_zeros(self._unit, dtype=torch.long)
        logits = self._model(tokens, keep)
        self._logits[:count].copy_(logits[:count])

    def _run_with_prompts(self, step: Step, tokens: _Tokens) -> list[tuple[Sequence, torch.Tensor]]:
        """Compute a step with the logits of all its tokens, and return the log-probabilities of its prompt tokens."""
        count = len(step.decodes) + sum(c.length for c in step.chunks)
        logits = self._model(tokens, torch.arange(len(tokens.slots), device=self._device))[:count].float()
        rows = upload(choosing_rows(step), np.int64, self._device)
        self._logits[: len(rows)] = logits[rows]
        return prompt_logprobs(step, logits)

    def _run_scored(self, step: Step, tokens: _Tokens) -> list[Scores]:
        """Compute a step of sequences that are scored, with the logits before each scored token."""
        rows, first = list[int](), 0
        for chunk in step.chunks:
            rows += [first + at for at in chunk.scored]
            first += chunk.length
        keep = rows + [0] * (rounded(len(rows), self._unit) - len(rows))
        logits = self._model(tokens, upload(keep, np.int64, self._device))[: len(rows)].float()
        return scored_tokens(step, logits, self._stats)

    def _choose(self, sequences: list[Sequence], count: int, read: list[tuple[Sequence, torch.Tensor]]) -> Flight:
        """Choose a token for each sequence from the `count` rows of logits, and compute its statistics."""
        if count not in self._rows:
            self._rows[count] = torch.zeros(3, count, dtype=torch.int32, device=self._device)
        rows, used = self._rows[count], len(sequences)
        rows.copy_(upload(pack_rows(sequences, count, self._state.slots), np.int32, self._device))
        logits = self._logits[:used]
        changed, emptied = self._state.constrain(logits, sequences)
        if ruled := changed is not logits:
            self._constrained = self._rows_of_logits() if self._constrained is None else self._constrained
            self._constrained[:used].copy_(changed)
        rules = self._state.rules(sequences)
        found = self._recordings.run(_SAMPLING, (count, ruled, *rules), lambda: self._sample(rows, ruled, *rules))
        self._state.count(rows[0], found["chosen"])
        wanted_back = {name: values[:used] for name, values in found.items()}
        if emptied.flags is not None:
            wanted_back["empty"] = emptied.flags
        waiting = fetch(wanted_back)

        def wait() -> Outcome:
            values = waiting()
            chosen, finite = values.pop("chosen").tolist(), values.pop("finite").tolist()
            empty = values.pop("empty").tolist() if "empty" in values else None
            return Outcome(chosen, finite, values, read, emptied.ends(empty))

        return Flight(sequences, wait)

    def _sample(self, rows: torch.Tensor, ruled: bool, truncates: bool, all_greedy: bool) -> dict[str, torch.Tensor]:
        """Choose tokens, compute statistics, and put the tokens where the next step reads them."""
        slots, generated, columns = rows.long().unbind(0)
        logits, constrained = self._logits[: len(slots)], self._logits[: len(slots)]
        if ruled and self._constrained is not None:
            constrained = self._constrained[: len(slots)]
        chosen = sample(
            constrained, self._state.sampling_rows(slots, generated, truncates=truncates, all_greedy=all_greedy)
        )
        distribution = Distribution(logits, chosen, self._stats.top_logprobs)
        values = compute(wanted(self._stats), distribution)
        self._state.record(slots, columns, chosen)
        return {"chosen": chosen, "finite": distribution.measures.finite, **values}
