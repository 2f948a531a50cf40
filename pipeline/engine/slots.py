"""The state of every slot as tensors: ids, noise, sampling parameters and statistics, so that a step has no loop over rows.

It does not know the model, or when a sequence starts and ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import torch

from pipeline.engine.noise import uniforms
from pipeline.engine.sampler import SamplingRows, penalise
from pipeline.engine.sequence import Sequence
from pipeline.engine.stats import Values
from pipeline.engine.stopping import StopWatch

COLDEST = 1e-30
"""Temperatures below are greedy: logits divided by them would leave float32's range."""


class SlotState:
    """Tensors with a row a slot.

    Args:
        slots: Number of slots.
        max_len: Tokens a slot holds, prompt and generated.
        vocab_size: Size of the vocabulary.
        device: Where the tensors are.
    """

    def __init__(self, slots: int, max_len: int, vocab_size: int, device: torch.device) -> None:
        """Make the rows."""
        self._shape, self._vocab_size, self._device = (slots, max_len), vocab_size, device
        self.tokens = torch.zeros(slots, max_len, dtype=torch.long, device=device)
        self._noise = torch.zeros(slots, max_len, dtype=torch.float64, device=device)
        self._parameters = torch.zeros(slots, 8, dtype=torch.float32, device=device)
        self._counts: torch.Tensor | None = None  # made when the first penalty is asked for
        self._in_prompt: torch.Tensor | None = None
        self._values: dict[str, torch.Tensor] = {}
        self._watches: list[StopWatch | None] = [None] * slots
        self._sampling = [False] * slots
        self._truncating = [False] * slots
        self._penalised = [False] * slots

    def admit(self, sequence: Sequence, watch: StopWatch) -> None:
        """Fill a slot's rows for a sequence."""
        request, slot = sequence.request, sequence.slot
        sampling, prompt = request.sampling, torch.tensor(request.prompt_token_ids, device=self._device)
        self.tokens[slot, : len(prompt)] = prompt
        greedy = sampling.temperature < COLDEST
        off = sampling.top_k == 0 or sampling.top_k >= self._vocab_size
        self._parameters[slot] = torch.tensor([
            greedy, 1.0 if greedy else sampling.temperature, self._vocab_size if off else sampling.top_k, sampling.top_p,
            math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf,
            sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty,
        ])  # fmt: skip
        self._watches[slot], self._sampling[slot] = watch, not greedy
        self._truncating[slot] = not greedy and (not off or sampling.top_p < 1 or sampling.min_p > 0)
        self._penalised[slot] = (
            sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        )
        if not greedy:
            noise = uniforms(sampling.seed, request.row_id, request.sample_index, sequence.max_new)
            self._noise[slot, : sequence.max_new] = torch.from_numpy(noise)
        if self._penalised[slot]:
            if self._counts is None or self._in_prompt is None:
                shape = (self._shape[0], self._vocab_size)
                self._counts = torch.zeros(shape, dtype=torch.float32, device=self._device)
                self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=self._device)
            self._counts[slot] = 0
            self._in_prompt[slot] = False
            self._in_prompt[slot, prompt] = True

    def constrain(self, logits: torch.Tensor, sequences: Seq[Sequence]) -> torch.Tensor:
        """Penalties and forbidden end tokens of the rows that have them, [B, V]; `logits` itself where there are none."""
        changed = logits
        rows = [i for i, s in enumerate(sequences) if self._penalised[s.slot]]
        if rows and self._counts is not None and self._in_prompt is not None:
            slots = torch.tensor([sequences[i].slot for i in rows], device=self._device)
            repetition, presence, frequency = self._parameters[slots, 5:8].unbind(1)
            changed = logits.clone()
            changed[rows] = penalise(
                logits[rows], self._counts[slots], self._in_prompt[slots], repetition, presence, frequency
            )
        for i, sequence in enumerate(sequences):
            watch = self._watches[sequence.slot]
            if watch is not None and watch.forbids_end(len(sequence.generated)):
                changed = logits.clone() if changed is logits else changed
                changed[i, [t for t in sorted(watch.end_ids) if t < self._vocab_size]] = -math.inf
        return changed

    def sampling_rows(self, sequences: Seq[Sequence]) -> SamplingRows:
        """The sampling parameters of a step's rows and their noise at each one's position."""
        slots = torch.tensor([s.slot for s in sequences], device=self._device)
        positions = torch.tensor([len(s.generated) for s in sequences], device=self._device)
        greedy, temperature, top_k, top_p, log_min_p = self._parameters[slots, :5].unbind(1)
        return SamplingRows(
            greedy.bool(), temperature, top_k.long(), top_p, log_min_p, self._noise[slots, positions],
            truncates=any(self._truncating[s.slot] for s in sequences),
            all_greedy=not any(self._sampling[s.slot] for s in sequences),
        )  # fmt: skip

    def record(self, sequences: Seq[Sequence], chosen: torch.Tensor, values: Values) -> None:
        """Keep the chosen tokens [B] and their statistics; the sequences' `generated` is not touched."""
        slots = torch.tensor([s.slot for s in sequences], device=self._device)
        positions = torch.tensor([len(s.generated) for s in sequences], device=self._device)
        prompts = torch.tensor([s.prompt_len for s in sequences], device=self._device)
        room = (positions + prompts < self._shape[1]).nonzero()[:, 0]  # the last token of a full slot is not fed back
        self.tokens[slots[room], (positions + prompts)[room]] = chosen[room]
        if self._counts is not None:
            self._counts[slots, chosen] += 1
        for name, value in values.items():
            if name not in self._values:
                shape = (*self._shape, *value.shape[1:])
                self._values[name] = torch.zeros(shape, dtype=value.dtype, device=self._device)
            self._values[name][slots, positions] = value

    def statistics(self, sequence: Sequence) -> Values:
        """The recorded statistics of a sequence's generated tokens, copied to the CPU."""
        count = len(sequence.generated)
        return {name: value[sequence.slot, :count].cpu().clone() for name, value in self._values.items()}
