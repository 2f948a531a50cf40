"""The state of every slot as tensors: ids, noise and sampling parameters, so that a step has no loop over rows.

There is one more row than slots: idle rows in a step of fixed shape use it. It does not
know the model, or when a sequence starts and ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import numpy as np
import torch

from pipeline.engine.device import upload
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.plain.sampler import SamplingRows
from pipeline.engine.rules.constraints import Constraints, Emptied
from pipeline.engine.rules.noise import uniforms
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.sequence import Sequence

COLDEST = 1e-30
"""Lower temperatures are treated as greedy: logits divided by them would exceed float32's range."""


class SlotState:
    """Tensors with one row per slot, and a last row that is idle.

    Args:
        slots: Number of slots.
        max_len: Tokens a slot holds, prompt and generated.
        vocab_size: Size of the vocabulary.
        device: Where the tensors are.
        tokenizer: For bad words.
        grammars: For structured output.

    Attributes:
        tokens: [slots + 1, max_len + 1] ids of every sequence, prompt and generated; the last column is never read.
    """

    def __init__(
        self, slots: int, max_len: int, vocab_size: int, device: torch.device, tokenizer: Tokenizer, grammars: Grammars
    ) -> None:
        """Allocate the rows."""
        self.slots, self._max_len, self._vocab_size, self._device = slots, max_len, vocab_size, device
        self.tokens = torch.zeros(slots + 1, max_len + 1, dtype=torch.long, device=device)
        self._noise = torch.zeros(slots + 1, max_len, dtype=torch.float64, device=device)
        idle = upload([1, 1, vocab_size, 1, -math.inf], np.float32, device)
        self._parameters = idle.repeat(slots + 1, 1)
        self._constraints = Constraints(slots, vocab_size, device, tokenizer, grammars)
        self._sampling = [False] * slots
        self._truncating = [False] * slots

    def admit(self, admitted: Seq[tuple[Sequence, StopWatch | None]]) -> None:
        """Fill the rows of the slots that sequences were given; a sequence that is scored has no stop watch."""
        if not admitted:
            return
        longest = max(s.prompt_len for s, _ in admitted)
        tokens = np.zeros((len(admitted), longest), np.int64)
        noise = np.zeros((len(admitted), max(s.max_new for s, _ in admitted)))
        parameters = []
        for row, (sequence, watch) in enumerate(admitted):
            request, slot = sequence.request, sequence.slot
            sampling = request.sampling
            tokens[row, : sequence.prompt_len] = request.prompt_token_ids[: sequence.prompt_len]
            greedy = sampling.temperature < COLDEST
            off = sampling.top_k == 0 or sampling.top_k >= self._vocab_size
            parameters.append([
                greedy, 1.0 if greedy else sampling.temperature, self._vocab_size if off else sampling.top_k,
                sampling.top_p, math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf,
            ])  # fmt: skip
            self._sampling[slot] = not greedy
            self._truncating[slot] = not greedy and (not off or sampling.top_p < 1 or sampling.min_p > 0)
            if not greedy:
                noise[row, : sequence.max_new] = uniforms(
                    sampling.seed, request.row_id, request.sample_index, sequence.max_new
                )
            if watch is not None:
                self._constraints.admit(sequence, watch)
        slots = upload([s.slot for s, _ in admitted], np.int64, self._device)
        self.tokens[slots, :longest] = upload(tokens, np.int64, self._device)
        self._parameters[slots] = upload(parameters, np.float32, self._device)
        if any(self._sampling[s.slot] for s, _ in admitted):
            self._noise[slots, : noise.shape[1]] = upload(noise, np.float64, self._device)

    def constrain(self, logits: torch.Tensor, sequences: Seq[Sequence]) -> tuple[torch.Tensor, Emptied]:
        """Apply the masks, biases and penalties of the rows that have any; see `Constraints.apply`."""
        return self._constraints.apply(logits, sequences)

    def rules(self, sequences: Seq[Sequence]) -> tuple[bool, bool]:
        """Return (whether any row truncates its distribution, whether all are greedy)."""
        slots = [s.slot for s in sequences]
        return any(self._truncating[slot] for slot in slots), not any(self._sampling[slot] for slot in slots)

    def sampling_rows(
        self, slots: torch.Tensor, positions: torch.Tensor, *, truncates: bool, all_greedy: bool
    ) -> SamplingRows:
        """Return the sampling parameters and the noise of a step's rows.

        Args:
            slots: [B].
            positions: [B] number of tokens that each has generated.
            truncates: See `rules`.
            all_greedy: Likewise.
        """
        greedy, temperature, top_k, top_p, log_min_p = self._parameters[slots].unbind(1)
        return SamplingRows(
            greedy.bool(), temperature, top_k.long(), top_p, log_min_p, self._noise[slots, positions],
            truncates=truncates, all_greedy=all_greedy,
        )  # fmt: skip

    def record(self, slots: torch.Tensor, columns: torch.Tensor, chosen: torch.Tensor) -> None:
        """Write the chosen tokens [B] to the columns [B] of their slots, without leaving the device."""
        self.tokens[slots, columns] = chosen

    def count(self, slots: torch.Tensor, chosen: torch.Tensor) -> None:
        """Count the chosen tokens [B] of slots [B] for penalties."""
        self._constraints.record(slots, chosen)
