"""The state of every slot as tensors: ids, noise, sampling parameters and statistics, so that a step has no loop over rows.

It does not know the model, or when a sequence starts and ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import torch

from pipeline.engine.constraints import Constraints, End
from pipeline.engine.noise import uniforms
from pipeline.engine.sampler import SamplingRows
from pipeline.engine.sequence import Sequence
from pipeline.engine.stats import Values
from pipeline.engine.stopping import StopWatch
from pipeline.engine.structured import Grammars
from pipeline.engine.tokenizer import Tokenizer

COLDEST = 1e-30
"""Temperatures below are greedy: logits divided by them would leave float32's range."""


class SlotState:
    """Tensors with a row a slot.

    Args:
        slots: Number of slots.
        max_len: Tokens a slot holds, prompt and generated.
        vocab_size: Size of the vocabulary.
        device: Where the tensors are.
        tokenizer: For bad words.
        grammars: For structured output.
    """

    def __init__(
        self, slots: int, max_len: int, vocab_size: int, device: torch.device, tokenizer: Tokenizer, grammars: Grammars
    ) -> None:
        """Make the rows."""
        self._shape, self._vocab_size, self._device = (slots, max_len), vocab_size, device
        self.tokens = torch.zeros(slots, max_len, dtype=torch.long, device=device)
        self._noise = torch.zeros(slots, max_len, dtype=torch.float64, device=device)
        self._parameters = torch.zeros(slots, 5, dtype=torch.float32, device=device)
        self._constraints = Constraints(slots, vocab_size, device, tokenizer, grammars)
        self._values: dict[str, torch.Tensor] = {}
        self._sampling = [False] * slots
        self._truncating = [False] * slots

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
        ])  # fmt: skip
        self._sampling[slot] = not greedy
        self._truncating[slot] = not greedy and (not off or sampling.top_p < 1 or sampling.min_p > 0)
        if not greedy:
            noise = uniforms(sampling.seed, request.row_id, request.sample_index, sequence.max_new)
            self._noise[slot, : sequence.max_new] = torch.from_numpy(noise)
        self._constraints.admit(sequence, watch)

    def constrain(self, logits: torch.Tensor, sequences: Seq[Sequence]) -> tuple[torch.Tensor, dict[int, End]]:
        """Masks, biases and penalties of the rows that have any; see `Constraints.apply`."""
        return self._constraints.apply(logits, sequences)

    def sampling_rows(self, sequences: Seq[Sequence]) -> SamplingRows:
        """The sampling parameters of a step's rows and their noise at each one's position."""
        slots = torch.tensor([s.slot for s in sequences], device=self._device)
        positions = torch.tensor([len(s.generated) for s in sequences], device=self._device)
        greedy, temperature, top_k, top_p, log_min_p = self._parameters[slots].unbind(1)
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
        self._constraints.record(slots, chosen)
        for name, value in values.items():
            if name not in self._values:
                shape = (*self._shape, *value.shape[1:])
                self._values[name] = torch.zeros(shape, dtype=value.dtype, device=self._device)
            self._values[name][slots, positions] = value

    def statistics(self, sequence: Sequence) -> Values:
        """The recorded statistics of a sequence's generated tokens, copied to the CPU."""
        count = len(sequence.generated)
        return {name: value[sequence.slot, :count].cpu().clone() for name, value in self._values.items()}
