"""The continuous engine: schedule → run → sample → finish, over a batch that is refilled the moment a slot is free.

It does not know shards, files or where requests come from.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq
from types import MappingProxyType

import torch

from pipeline.engine import native
from pipeline.engine.block_pool import BlockPool
from pipeline.engine.config import StatsConfig
from pipeline.engine.memory import out_of_memory
from pipeline.engine.runner import ModelRunner
from pipeline.engine.sampler import sample
from pipeline.engine.scheduler import FEW, Scheduler, Step
from pipeline.engine.sequence import Sequence
from pipeline.engine.slots import SlotState
from pipeline.engine.stats import Distribution, compute
from pipeline.engine.stopping import StopWatch
from pipeline.engine.structured import Grammars
from pipeline.engine.tokenizer import Tokenizer
from pipeline.types import Completion, ErrorCode, FinishReason, Request, Room, RowError

logger = logging.getLogger(__name__)

NONFINITE = RowError(
    ErrorCode.NONFINITE_LOGITS, "the model's logits are not finite: its weights or type may be at fault"
)


CORES_OF_FEW = 4
"""Cores at which FEW sequences keep the arithmetic busy; more of them need more sequences."""


class ContinuousEngine:
    """Continuous batching over a slot KV cache.

    Args:
        runner: The model with its cache.
        tokenizer: For stop strings and the completions' text.
        stats: Which statistics to compute.
        max_num_batched_tokens: Bound on a step's tokens.
        prefix_caching: Compute once what prompts that begin alike share.
        expected: Requests that there will be, about; null: those that were added at any time are all.
    """

    def __init__(
        self, runner: ModelRunner, tokenizer: Tokenizer, stats: StatsConfig, max_num_batched_tokens: int,
        *, prefix_caching: bool = True, expected: int | None = None,
    ) -> None:  # fmt: skip
        """Start empty."""
        self._runner, self._tokenizer = runner, tokenizer
        # a prompt whose own log-probabilities are wanted has to be computed to its last position
        share = prefix_caching and not stats.prompt_logprobs
        loaded = runner.loaded
        few = runner.slots if loaded.device.type != "cpu" else FEW * max(1, torch.get_num_threads() // CORES_OF_FEW)
        self._pool = BlockPool(runner.blocks)
        self._scheduler = Scheduler(
            runner.slots, max_num_batched_tokens, self._pool, share=share, few=few, expected=expected
        )
        self._grammars = Grammars(tokenizer, loaded.vocab_size, loaded.eos_token_ids, torch.get_num_threads())
        self._state = SlotState(
            runner.slots, runner.max_len, loaded.vocab_size, loaded.device, tokenizer, self._grammars
        )
        # the log-probability is always computed: the cumulative one is its sum
        self._statistics = [
            *dict.fromkeys(["logprob", *stats.columns]),
            *(["top_logprobs"] if stats.top_logprobs else []),
        ]
        self._top, self._prompt_logprobs = stats.top_logprobs, stats.prompt_logprobs
        self._watches: dict[int, StopWatch] = {}
        self._prompt_values: dict[int, list[torch.Tensor]] = {}

    def add(self, requests: Seq[Request]) -> None:
        """Queue requests; see `Engine.add`."""
        limit = self._runner.max_len
        self._scheduler.add(Sequence(r, min(r.sampling.max_tokens, limit - len(r.prompt_token_ids))) for r in requests)

    def load(self) -> tuple[int, int]:
        """Return (running, waiting)."""
        return len(self._scheduler.running), self._scheduler.waiting

    @property
    def room(self) -> Room:
        """The slots and the blocks; see `Engine.room`."""
        return Room(self._scheduler.most, self._pool.blocks - self._pool.available, self._pool.blocks)

    def step(self) -> list[Completion]:
        """Advance every running sequence; see `Engine.step`.

        Out of memory: everything that runs starts anew, half as much at once. The bytes are the same.
        """
        done: list[Completion] = []  # what ended before the memory did is not lost
        try:
            self._step(done)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or not self._scheduler.lower():
                raise
            logger.warning("out of memory: going on with fewer sequences at once (%s)", str(error).partition("\n")[0])
            self._watches.clear()
            self._prompt_values.clear()
        return done

    @torch.inference_mode()
    def _step(self, done: list[Completion]) -> None:
        admitted, step = self._scheduler.schedule()
        for sequence in admitted:
            watch = StopWatch(
                sequence.request, sequence.max_new, self._runner.loaded.eos_token_ids, self._tokenizer,
                self._grammars.start(sequence.request.sampling),
            )  # fmt: skip
            self._watches[sequence.slot] = watch
            self._state.admit(sequence, watch)
        if not step.decodes and not step.chunks:
            return
        with_prompt = frozenset(c.sequence.slot for c in step.chunks) if self._prompt_logprobs else frozenset[int]()
        logits = self._runner.run(step, self._state.tokens, prompt_logits=with_prompt)
        if with_prompt:
            logits = self._take_prompt_logprobs(step, logits)
        if step.choosing:
            self._advance(step.choosing, logits, done)

    def _advance(self, sequences: list[Sequence], logits: torch.Tensor, done: list[Completion]) -> None:
        """Choose a token for each sequence from its row of logits [B, V]; those that end are finished and go to `done`."""
        rows = len(sequences)
        if twice := rows == 1 and not native.serves(logits):
            logits = logits.expand(2, -1)  # torch reduces a lone row with several threads, with other rounding
        sequences_or_twice = sequences * 2 if twice else sequences
        constrained, ends = self._state.constrain(logits, sequences_or_twice)
        chosen = sample(constrained, self._state.sampling_rows(sequences_or_twice))
        distribution = Distribution(logits, chosen, self._top)
        values = compute(self._statistics, distribution)
        finite = distribution.measures.finite
        self._state.record(sequences, chosen[:rows], {name: value[:rows] for name, value in values.items()})
        for row, (sequence, token, good) in enumerate(
            zip(sequences, chosen[:rows].tolist(), finite[:rows].tolist(), strict=True)
        ):
            if not good or row in ends:
                reason, error = ends[row] if good else (FinishReason.ERROR, NONFINITE)
                done.append(self._finish(sequence, reason, None, error))
                continue
            sequence.generated.append(token)
            ended = self._watches[sequence.slot].check(sequence.generated)
            if ended is not None:
                done.append(self._finish(sequence, *ended))

    def _finish(
        self, sequence: Sequence, reason: FinishReason, stopped_by: str | None, error: RowError | None = None
    ) -> Completion:
        """Make the completion, then give the slot back: a sequence whose completion finds no memory is still running."""
        slot, request = sequence.slot, sequence.request
        watch, prompt_values = self._watches.pop(slot), self._prompt_values.pop(slot, None)
        if reason is FinishReason.ERROR:
            self._scheduler.release(sequence)
            return Completion(request, finish_reason=reason, error=error)
        statistics = {name: value.numpy() for name, value in self._state.statistics(sequence).items()}
        completion = Completion(
            request, tuple(sequence.generated), watch.text(sequence.generated, reason), reason, stopped_by,
            MappingProxyType(statistics),
            None if prompt_values is None else torch.cat(prompt_values).numpy(),
        )  # fmt: skip
        self._scheduler.release(sequence)
        return completion

    def _take_prompt_logprobs(self, step: Step, logits: torch.Tensor) -> torch.Tensor:
        """Keep the log-probabilities of the chunks' prompt tokens and return the rows that choose tokens.

        Row i of a chunk predicts the prompt token after position i; the first token of a text has none (NaN).
        """
        chooses, row = list(range(len(step.decodes))), len(step.decodes)
        for chunk in step.chunks:
            prompt = chunk.sequence.request.prompt_token_ids
            predicted = prompt[chunk.start + 1 : chunk.start + chunk.length + 1]
            kept = self._prompt_values.setdefault(chunk.sequence.slot, [torch.full((1,), torch.nan)])
            block = torch.log_softmax(logits[row : row + chunk.length], -1)
            targets = torch.tensor(predicted, device=logits.device)
            kept.append(block[: len(predicted)].gather(-1, targets[:, None])[:, 0].cpu())
            row += chunk.length
            if chunk.last:
                chooses.append(row - 1)
        return logits[chooses]
