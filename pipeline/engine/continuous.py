"""The continuous engine: schedule → launch → wait → finish, over a batch that is refilled as soon as a slot is free.

On a GPU the host is one step behind: it processes a step's results while the GPU computes the next step.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence as Seq
from types import MappingProxyType

import torch

from pipeline.engine.cache.block_pool import BlockPool
from pipeline.engine.cache.memory import out_of_memory
from pipeline.engine.config import StatsConfig
from pipeline.engine.device import give_memory_back
from pipeline.engine.layers.attention import TRITON
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.scheduler import Scheduler, few_for
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.eager import LOGITS_BYTES, EagerStepper
from pipeline.engine.steps.flight import NONFINITE, Flight, Scores, Stepper
from pipeline.engine.steps.graphs import GraphStepper
from pipeline.engine.steps.record import Record
from pipeline.engine.steps.runner import ModelRunner
from pipeline.engine.steps.shapes import TOKENS_A_CHUNK
from pipeline.engine.steps.slots import SlotState
from pipeline.types import Completion, FinishReason, Request, Room, RowError

logger = logging.getLogger(__name__)


class ContinuousEngine:
    """Continuous batching over a slot KV cache.

    Args:
        runner: The model with its cache.
        tokenizer: For stop strings and the completions' text.
        stats: Which statistics to compute.
        max_num_batched_tokens: Bound on a step's tokens.
        prefix_caching: Compute the common beginning of prompts only once.
        expected: Approximate number of requests in all; None: assume that no more come than were added.
        ahead: Launch a step before the results of the previous one are known, as a GPU's kernels always do. A sequence
            whose chosen token ends it is then computed one step too far; the result is dropped.

    Attributes:
        stepper: Computes the steps.
        waited: Seconds that the host has waited for the device.
    """

    def __init__(
        self, runner: ModelRunner, tokenizer: Tokenizer, stats: StatsConfig, max_num_batched_tokens: int,
        *, prefix_caching: bool = True, expected: int | None = None, ahead: bool = False,
    ) -> None:  # fmt: skip
        """Start empty."""
        self._runner, self._tokenizer = runner, tokenizer
        # a prompt whose own log-probabilities are requested must be computed to its last position
        share = prefix_caching and not stats.prompt_logprobs
        loaded = runner.loaded
        few = runner.slots if loaded.device.type != "cpu" else few_for(torch.get_num_threads())
        self._pool = BlockPool(runner.blocks)
        graphs = loaded.attention == TRITON
        self._scheduler = Scheduler(
            runner.slots, max_num_batched_tokens, self._pool, share=share, few=few, expected=expected,
            max_chunks=max_num_batched_tokens // TOKENS_A_CHUNK if graphs else None,
            max_scored=LOGITS_BYTES // (4 * loaded.vocab_size),
        )  # fmt: skip
        self._grammars = Grammars(tokenizer, loaded.vocab_size, loaded.eos_token_ids, torch.get_num_threads())
        self._state = SlotState(
            runner.slots, runner.max_len, loaded.vocab_size, loaded.device, tokenizer, self._grammars
        )
        self.stepper: Stepper = (GraphStepper if graphs else EagerStepper)(runner, self._state, stats)
        self._record = Record(runner.slots, runner.max_len)
        self._behind = 1 if graphs or ahead else 0
        self._flights: deque[Flight] = deque()
        self._watches: dict[int, StopWatch] = {}
        self.waited = 0.0

    def add(self, requests: Seq[Request]) -> None:
        """Queue requests; see `Engine.add`."""
        limit = self._runner.max_len
        self._scheduler.add(
            Sequence(r, 0 if r.scored_from is not None else min(r.sampling.max_tokens, limit - r.read))
            for r in requests
        )

    def load(self) -> tuple[int, int]:
        """Return (running, waiting)."""
        return len(self._scheduler.running), self._scheduler.waiting

    @property
    def room(self) -> Room:
        """The slots and the blocks; see `Engine.room`."""
        open_tokens = sum(len(sequence.generated) for sequence in self._scheduler.running.values())
        return Room(self._scheduler.most, self._pool.blocks - self._pool.available, self._pool.blocks, open_tokens)

    def step(self) -> list[Completion]:
        """Advance every running sequence; see `Engine.step`.

        When memory runs out, all running sequences restart: first without recorded steps, which hold memory; then half as
        many at once, in steps of half as many tokens. Their bytes stay the same.
        """
        done: list[Completion] = []  # sequences that ended before memory ran out are not lost
        try:
            self._step(done)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self._flights.clear()
            instead = self._give_way()
            if instead is None:
                raise
            logger.warning("out of memory: going on %s (%s)", instead, str(error).partition("\n")[0])
            self._watches.clear()
            self._record.clear()
        else:
            return done
        # only now does no traceback hold the tensors of the step that failed
        give_memory_back(self._runner.loaded.device)
        return done

    def _give_way(self) -> str | None:
        """Restart all sequences with less memory, and return how; None if nothing is left to do without."""
        if self.stepper.shed():
            self._scheduler.restart()
            return "without recorded steps, which is slower"
        return "with fewer sequences at once" if self._scheduler.lower() else None

    @torch.inference_mode()
    def _step(self, done: list[Completion]) -> None:
        admitted, step = self._scheduler.schedule()
        self.stepper.admit([(sequence, self._watch(sequence)) for sequence in admitted])
        behind = 0  # no next step to compute meanwhile: wait for the results now
        if step.decodes or step.chunks:
            flight = self.stepper.launch(step)
            for sequence in flight.sequences:
                sequence.in_flight += 1
            self._flights.append(flight)
            behind = self._behind
        while len(self._flights) > behind:
            self._land(self._flights.popleft(), done)
        if not self._scheduler.running:
            self._flights.clear()  # only results that nobody needs

    def _watch(self, sequence: Sequence) -> StopWatch | None:
        """Make the stop watch of an admitted sequence; None if it is scored."""
        if sequence.scored:
            return None
        sampling = sequence.request.sampling
        watch = StopWatch(
            sequence.request, sequence.max_new, self._runner.loaded.eos_token_ids, self._tokenizer,
            self._grammars.start(sampling),
        )  # fmt: skip
        self._watches[sequence.slot] = watch
        sequence.needs_last = watch.grammar is not None or bool(sampling.bad_words)
        return watch

    def _land(self, flight: Flight, done: list[Completion]) -> None:
        """Process a step's results; sequences that end are finished and go to `done`."""
        since = time.perf_counter()
        outcome = flight.wait()
        self.waited += time.perf_counter() - since
        self._record.add_prompt(outcome.prompt_logprobs)
        done += [end for scores in outcome.scores if (end := self._scored(scores)) is not None]
        # a sequence that ended one step earlier no longer has a slot
        rows = [row for row, sequence in enumerate(flight.sequences) if sequence.slot >= 0]
        self._record.add([flight.sequences[row] for row in rows], rows, outcome.values)
        for row in rows:
            sequence = flight.sequences[row]
            sequence.in_flight -= 1
            good = outcome.finite[row]
            if not good or row in outcome.ends:
                reason, error = outcome.ends[row] if good else (FinishReason.ERROR, NONFINITE)
                done.append(self._finish(sequence, reason, None, error))
                continue
            sequence.generated.append(outcome.tokens[row])
            ended = self._watches[sequence.slot].check(sequence.generated)
            if ended is not None:
                done.append(self._finish(sequence, *ended))

    def _scored(self, scores: Scores) -> Completion | None:
        """Keep statistics of scored tokens, and return the completion of a sequence that ends with them."""
        sequence, request = scores.sequence, scores.sequence.request
        if sequence.slot < 0:  # its logits were not finite one step earlier
            return None
        self._record.add_scores(sequence, scores.values)
        if scores.finite and not scores.last:
            return None
        completion = Completion(request, finish_reason=FinishReason.ERROR, error=NONFINITE)
        if scores.finite:
            statistics = MappingProxyType(self._record.scores(sequence))
            completion = Completion(request, request.prompt_token_ids[request.scored_from :], statistics=statistics)
        self._record.forget(sequence)
        self._scheduler.release(sequence)
        return completion

    def _finish(
        self, sequence: Sequence, reason: FinishReason, stopped_by: str | None, error: RowError | None = None
    ) -> Completion:
        """Make the completion, then free the slot: if memory runs out in between, the sequence is still running."""
        request, watch = sequence.request, self._watches.pop(sequence.slot)
        if reason is FinishReason.ERROR:
            completion = Completion(request, finish_reason=reason, error=error)
        else:
            statistics, prompt_values = self._record.of(sequence)
            completion = Completion(
                request, tuple(sequence.generated), watch.text(sequence.generated, reason), reason, stopped_by,
                MappingProxyType(statistics), prompt_values,
            )  # fmt: skip
        self._record.forget(sequence)
        self._scheduler.release(sequence)
        return completion
