"""Turns a shard into a committed part: reads its rows, generates, writes. A plain class that needs no Ray.

Three threads keep the batch full across shards: one reads and tokenises the next shard, one runs the engine, one encodes and
commits the last.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import math
import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.engine.base import Resources
from pipeline.errors import PromptmillError, WorkerFailed
from pipeline.machine import return_memory
from pipeline.output.columns import spare_pandas
from pipeline.output.guilty import Content, written
from pipeline.output.part import commit_part, encode_part, part_metadata, part_name, sha256_of
from pipeline.output.record.counts import Counts, count_rows
from pipeline.output.record.environment import environment, identity
from pipeline.output.record.inputs import agree
from pipeline.store.base import open_store
from pipeline.types import Completion, Progress, PromptRow, Request, ShardReport, Task
from pipeline.wording import named, one_line
from pipeline.work.job import Job
from pipeline.work.opened import Opened, open_job

_log = logging.getLogger(__name__)

CLOSE_SECONDS = 5
"""Seconds to wait for the step in flight when the worker is closed; its results are dropped."""


@dataclass
class _OpenShard:
    """A shard in progress: its rows, and the completions so far."""

    task: Task
    result: Future[ShardReport | None]
    rows: list[PromptRow] = field(default_factory=list)
    requests: list[tuple[int, Request]] = field(default_factory=list)
    kept: Any = None
    completions: dict[tuple[int, int], Completion] = field(default_factory=dict)
    missing: int = 0


class Worker:
    """Makes parts with one engine; several shards may be in progress at once.

    Args:
        job: The job.
        threads: CPU threads of the engine; None: torch's own choice.
        memory_share: Fraction of the machine's free memory for this worker, when several share it.
        work_share: Fraction of the plan's rows that it is likely to do.

    Raises:
        PromptmillError: If the model or the input cannot be used here.
    """

    def __init__(
        self, job: Job, *, threads: int | None = None, memory_share: float = 1.0, work_share: float = 1.0
    ) -> None:
        """Load the model and start the threads."""
        self._job = job
        self._store = open_store(job.output.path, allow_unsafe=job.output.allow_unsafe_store)
        expected = math.ceil(job.plan.rows * job.sampling.n * work_share)
        self._prepared: queue.SimpleQueue[_OpenShard | None] = queue.SimpleQueue()
        self._by_request: dict[tuple[str, int], tuple[_OpenShard, int]] = {}
        self._progress = Progress()
        self._beats = 0
        self._closed = threading.Event()
        spare_pandas()
        made: Future[Opened] = Future()
        resources = Resources(job.device, threads, memory_share, expected)
        self._thread = threading.Thread(target=self._serve, args=(made, resources), name="engine", daemon=True)
        self._thread.start()
        opened = made.result()
        self._recipe, self._rows = opened.recipe, opened.rows
        self._samples = self._recipe.samples or math.inf  # a row may need more requests than it has output rows
        self.facts = {**opened.built.facts, "vocab_size": opened.built.tokenizer.vocab_size}
        self._max_model_len = opened.built.max_model_len
        self._environment = identity({**environment(), **self.facts})
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="write")

    def submit(self, task: Task) -> Future[ShardReport | None]:
        """Queue a task and return at once; the future gives the part's report, None for a trial, or raises what went wrong."""
        pending = _OpenShard(task, Future())
        self._reading.submit(self._prepare, pending)
        return pending.result

    def progress(self) -> Progress:
        """Counters since the start."""
        return replace(self._progress, beats=self._beats)

    def close(self) -> None:
        """Stop without finishing the shards in progress; parts whose rows are all done are still committed."""
        self._closed.set()
        self._prepared.put(None)
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._writing.shutdown(wait=True)
        self._thread.join(timeout=CLOSE_SECONDS)

    def _prepare(self, pending: _OpenShard) -> None:
        """Read and tokenise a shard's rows."""
        task = pending.task
        try:
            if task.witness is not None:
                self._store.put(task.witness, str(task.attempt).encode())
            pending.rows, pending.kept = self._rows.read(task)
            self._agree()
            self._beats += 1
            pending.requests = [(at, r) for at, row in enumerate(pending.rows) for r in self._recipe.requests(row)]
            pending.missing = len(pending.requests)
            self._prepared.put(pending)
        except BaseException as error:  # raised to whoever waits for the shard
            pending.result.set_exception(_told(error, "reading", task))

    def _agree(self) -> None:
        """Check that this worker read the same input as the others."""
        digests = self._rows.unplanned()
        files = self._job.plan.files
        agree(self._store, digests, {key: one_line(files[int(key.partition("-")[0])].name) for key in digests})

    def _serve(self, made: Future[Opened], resources: Resources) -> None:
        """The engine's thread: load the model, then run it.

        All in one thread: OpenMP keeps a pool of threads for each that computes, and with more of them than there are cores it
        lets them sleep at every barrier, which makes the steps of a small model take twice as long.
        """
        try:
            opened = open_job(self._job, resources)
        except BaseException as error:  # raised where the worker is made
            made.set_exception(error)
            return
        self._engine = opened.engine
        made.set_result(opened)
        del opened
        try:
            self._run()
        finally:
            # What existed when the libraries were imported, this object too, is exempt from garbage collection for good.
            del self._engine
            gc.collect()
            return_memory()

    def _run(self) -> None:
        """Take prepared shards, step, accept completions."""
        try:
            while not self._closed.is_set():
                idle = not any(self._engine.load())
                try:
                    pending = self._prepared.get(block=idle) if idle else self._prepared.get_nowait()
                except queue.Empty:
                    pass
                else:
                    if pending is None:
                        return
                    self._begin(pending)
                    continue
                started = time.perf_counter()
                completions = self._engine.step()
                self._account(completions, time.perf_counter() - started)
                for completion in completions:
                    self._accept(completion)
        except BaseException as error:
            for pending in {id(o): o for o, _ in self._by_request.values()}.values():
                pending.result.set_exception(_told(error, "generating", pending.task))
            while (next_one := self._prepared.get()) is not None:  # until closed, so that nobody waits forever
                next_one.result.set_exception(_told(error, "generating", next_one.task))

    def _begin(self, pending: _OpenShard) -> None:
        """Give a shard's requests to the engine; a shard without requests is finished at once."""
        for position, request in pending.requests:
            self._by_request[request.row_id, request.sample_index] = pending, position
        if pending.requests:
            self._engine.add([request for _, request in pending.requests])
        else:
            self._writing.submit(self._finish, pending)

    def _accept(self, completion: Completion) -> None:
        """Keep a completion; if it is a shard's last, have the part written."""
        request = completion.request
        pending, position = self._by_request.pop((request.row_id, request.sample_index))
        pending.completions[position, request.sample_index] = completion
        pending.missing -= 1
        if pending.missing == 0:
            self._writing.submit(self._finish, pending)

    def _account(self, completions: list[Completion], seconds: float) -> None:
        self._beats += 1
        before = self._progress
        running, waiting = self._engine.load()
        self._progress = Progress(
            before.completions + sum(c.request.sample_index < self._samples for c in completions),
            before.completion_tokens + sum(len(c.token_ids) for c in completions),
            before.prompt_tokens + sum(len(c.request.prompt_token_ids) for c in completions),
            before.errors + sum(c.error is not None for c in completions),
            before.engine_seconds + seconds, running, waiting, steps=before.steps + 1, room=self._engine.room,
        )  # fmt: skip

    def _finish(self, pending: _OpenShard) -> None:
        """Encode and commit a part; the completions of a trial are dropped."""
        try:
            pending.result.set_result(self._write(pending) if pending.task.trial is None else None)
            self._beats += 1
        except BaseException as error:
            pending.result.set_exception(_told(error, "writing", pending.task))

    def _write(self, pending: _OpenShard) -> ShardReport:
        job, shard = self._job, pending.task.shard

        def encoded(content: Content) -> tuple[Counts, bytes]:
            table = self._recipe.table(job.schema, content.rows, content.completions, content.kept)
            counts = count_rows(content.rows, table, self._max_model_len)
            entries = part_metadata(job.plan.plan_id, shard.index, str(pending.task.attempt), counts, self._environment)
            return counts, encode_part(table, job.output, entries)

        counts, data = written(Content(pending.rows, pending.completions, pending.kept), encoded)
        name = part_name(job.plan.plan8, shard.index, shard.count)
        mine = commit_part(self._store, name, data, job.plan.plan_id)
        digest = hashlib.sha256(data).hexdigest() if mine else sha256_of(self._store, name)
        return ShardReport(
            shard.index, name, counts.rows, counts.completions, counts.prompt_tokens, counts.completion_tokens,
            counts.errors, digest, already_there=not mine, finish_reasons=counts.finish_reasons, lengths=counts.lengths,
            clamped_rows=counts.clamped_rows, cut_off=counts.cut_off, sums=counts.sums,
        )  # fmt: skip


def _told(error: BaseException, doing: str, task: Task) -> BaseException:
    """Return an unexpected exception as one line; a message meant for a person stays as it is."""
    if isinstance(error, PromptmillError) or not isinstance(error, Exception):
        return error
    _log.debug("shard %d: %s", task.shard.index, doing, exc_info=error)
    told = WorkerFailed(f"shard {task.shard.index}: {doing} it failed: {named(error)}")
    told.__cause__ = error
    return told
