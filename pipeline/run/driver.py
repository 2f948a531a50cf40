"""Takes the main job from its configuration to the manifest: plan, resume, dispatch, finish.

It is crash-only: the only recovery path is the ordinary start, which does what is not committed yet. The driver uses Ray
only through a `ReplicaPool`.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace

from pipeline.errors import Interrupted, PromptmillError
from pipeline.output.folder import OutputFolder
from pipeline.output.foreign import check_vacant
from pipeline.output.record.events import EventLog
from pipeline.output.record.manifest import Manifest
from pipeline.output.repair import repair
from pipeline.planning.pace import AT_RISK, SHARDS_AT_RISK, Effort
from pipeline.planning.plan import Plan
from pipeline.run.cluster.capacity import check_machine
from pipeline.run.dispatch.dispatch import Dispatcher
from pipeline.run.dispatch.replica import InlinePool, ReplicaPool
from pipeline.run.dispatch.sizing import Demand
from pipeline.run.finish import Outcome, exit_code, finish, summarise, too_many_errors
from pipeline.run.foresee import Foreseeing
from pipeline.run.shared.claims import Claims, Pulse
from pipeline.run.shared.queue import Work
from pipeline.run.shared.suspects import Suspects
from pipeline.run.show.metrics import FINISHED, Metrics
from pipeline.run.show.monitor import Monitor
from pipeline.run.show.progress import ProgressView, progress_view
from pipeline.run.show.watch import Watch
from pipeline.run.signals import Stopped, signals_raise
from pipeline.store.base import open_store
from pipeline.wording import counted, duration
from pipeline.work.config import GenerateConfig
from pipeline.work.job import Job
from pipeline.work.prepare import Prepared, prepare
from pipeline.work.recipe import open_recipe

STALE_SECONDS = 24 * 3600.0
"""Age in seconds from which a temporary file is abandoned: no part takes that long to write."""
RELEASES = 16
"""Claims released at a time: each takes two round trips to the store, for which dispatch does not wait."""


def run_job(
    config: GenerateConfig, *, config_yaml: str, recipe: str = "generate", accepted: Callable[[], None] = lambda: None
) -> Outcome:
    """Run a job to its manifest, and show its progress.

    Args:
        config: What to do.
        recipe: What the job makes of a row: a name in `pipeline.work.recipe`.
        config_yaml: The composed configuration that is kept with the output, interpolations unresolved.
        accepted: Called when the job is not refused, before anything is shown.

    Raises:
        PromptmillError: The message is one line for the person who runs the job; the process ends with its `exit_code`.
    """
    with signals_raise() as check_signals:
        check_machine(config.cluster)
        with progress_view(live=False) as view:  # the hub's client draws its own progress bars
            view.stage("checking the input and the model's files")
            folder = OutputFolder(open_store(config.output.path, allow_unsafe=config.output.allow_unsafe_store))
            prepared = prepare(config, recipe, folder.begun())
        accepted()
        check_vacant(folder.store, config.output.path)
        folder.store.probe()
        for line in repair(folder.store, prepared.job.plan):
            print(line, file=sys.stderr)
        plan = folder.claim_plan(prepared.job.plan)
        done = folder.finished(plan)
        if done is not None:
            print(f"{config.output.path} is complete: {done.totals.rows:,} rows, {done.totals.completions:,} completions "
                  f"in {counted(len(done.parts), 'part')}; nothing to do{too_many_errors(config, done)}",
                  file=sys.stderr)  # fmt: skip
            return Outcome(exit_code(config, done), done, worked=False)
        folder.save_config(config_yaml)
        folder.store.sweep(STALE_SECONDS)
        driver = _driver_id()
        with folder.events(driver) as events:
            claims = Claims(folder.store, driver, threads=RELEASES)
            return _Run(config, prepared, folder, plan, events, check_signals, claims).run()


class _Run:
    """One driver's work on one output."""

    def __init__(
        self, config: GenerateConfig, prepared: Prepared, folder: OutputFolder, plan: Plan, events: EventLog,
        check_signals: Callable[[], None], claims: Claims,
    ) -> None:  # fmt: skip
        self._config, self._prepared, self._folder, self._plan, self._events = config, prepared, folder, plan, events
        self._check_signals, self._claims = check_signals, claims
        committed = folder.committed(plan)
        self._missing = [i for i in range(plan.shard_count) if i not in committed]
        self._recipe = open_recipe(plan.fingerprint)
        samples = self._recipe.samples or config.sampling.n
        most = config.sampling.max_tokens if "sampling" in plan.fingerprint else None
        self._monitor = Monitor(plan, committed, samples, max_tokens=most)
        self._deadline = config.deadline_after(datetime.datetime.now())
        self._environment: dict[str, object] = {}
        self._lost = "no row in flight is lost"

    def run(self) -> Outcome:
        """Do what is missing, then finish."""
        plan = self._plan
        self._events.add("plan", plan_id=plan.plan_id, rows=plan.rows, rows_per_shard=plan.rows_per_shard)
        self._events.add("driver_start", plan_id=plan.plan_id, shards=plan.shard_count, missing=len(self._missing))
        try:
            with progress_view() as view:
                self._announce(view)
                if self._missing:
                    self._work(view)
                view.stage("checking the parts")
                manifest = self._finish()
        except (PromptmillError, Stopped) as stop:
            error = stop.told() if isinstance(stop, Stopped) else stop
            self._events.add("driver_stop", reason=type(error).__name__, exit_code=error.exit_code)
            raise self._with_progress(error) from error.__cause__
        except Exception as error:  # a library's, or a bug
            self._events.add("driver_stop", reason=type(error).__name__, exit_code=PromptmillError.exit_code)
            raise
        code = exit_code(self._config, manifest)
        self._events.add("driver_stop", reason="complete", exit_code=code)
        summarise(self._folder.store, plan, self._config, manifest)
        return Outcome(code, manifest)

    def _announce(self, view: ProgressView) -> None:
        plan, config = self._plan, self._config
        view.note(f"plan {plan.plan8}: {counted(plan.rows, 'row')} in {counted(plan.shard_count, 'part')}, "
                  f"{len(self._missing):,} to do")  # fmt: skip
        for line in self._prepared.notes:
            view.note(line)
        for doubt in self._prepared.doubts:
            view.note(f"WARNING: {doubt}")
        if config.output.rows_per_shard not in (None, plan.rows_per_shard):
            view.note(
                f"this output was begun with output.rows_per_shard={plan.rows_per_shard}, which is kept "
                f"(requested: {config.output.rows_per_shard})"
            )
        if self._missing and (warning := _at_risk(self._prepared.effort, plan)) is not None:
            view.note(warning)

    def _work(self, view: ProgressView) -> None:
        """Do the missing shards, together with other drivers if there are any."""
        pulse = Pulse(self._claims)
        foreseeing = Foreseeing(self._folder.store, self._config, self._prepared)
        try:
            self._dispatch(Watch(view, self._monitor, self._events, self._check_signals, self._deadline))
            foreseeing.end()
        finally:
            pulse.stop()
            self._claims.close()

    def _dispatch(self, watch: Watch) -> None:
        config, folder, plan = self._config, self._folder, self._plan
        job = replace(self._prepared.job, plan=plan)
        pool = _pool(config, job, Demand(len(self._missing), self._prepared.weight_bytes), watch.view.note)
        if config.cluster.name != "inline":
            watch.metrics = _metrics(plan, self._claims.driver, self._deadline, pool)
        work = Work(
            plan, self._missing, self._claims, Suspects(folder.store),
            is_committed=lambda index: folder.is_committed(plan, index), committed=lambda: folder.committed(plan),
            on_event=watch.event, on_elsewhere=self._monitor.elsewhere,
        )  # fmt: skip
        dispatcher = Dispatcher(
            pool, work, watch.report, lambda: watch.look(work, dispatcher.replicas), watch.event,
            hang_timeout=config.cluster.hang_timeout,
        )  # fmt: skip
        watch.waiting_for = dispatcher.waiting_for
        reason = FINISHED
        watch.view.stage("starting", pool.doing)
        try:
            dispatcher.run()
            self._environment = pool.facts()
        except BaseException as error:
            reason = type(error).__name__
            raise
        finally:
            try:
                watch.end(dispatcher.replicas, reason)
                self._lost = self._monitor.lost(dispatcher.rows_in_flight, dispatcher.replicas)
            finally:
                pool.close()

    def _finish(self) -> Manifest:
        done = self._folder.finished(self._plan)  # by another driver
        if done is not None:
            return done
        manifest = finish(
            self._folder.store, self._plan, self._config, self._prepared, self._recipe, self._monitor, self._environment
        )
        self._claims.sweep()
        return manifest

    def _with_progress(self, error: PromptmillError) -> PromptmillError:
        """Add to the message what is done and how to resume, where that is possible."""
        if error.exit_code in (2, 1):
            return error
        total = self._plan.shard_count
        done = f"{self._monitor.shards_done:,} of {counted(total, 'part')} {'is' if total == 1 else 'are'} committed"
        text = f"{error}; {done}, {self._lost}; the same command resumes from there"
        return Interrupted(text, error.signum) if isinstance(error, Interrupted) else type(error)(text)


def _at_risk(effort: Effort, plan: Plan) -> str | None:
    """Return a warning if a stop may lose more work than it should."""
    seconds = min(SHARDS_AT_RISK * plan.rows_per_shard, plan.rows) * effort.row_seconds
    if seconds <= AT_RISK:
        return None
    better = effort.rows_per_shard
    remedy = (
        "a row alone takes that long"
        if better == plan.rows_per_shard
        else f"a new output without this option has parts of {counted(better, 'row')}"
    )
    return (
        f"WARNING: output.rows_per_shard={plan.rows_per_shard}: a stop may lose {duration(seconds)} of work, by a careful "
        f"estimate; {remedy}"
    )


def _pool(config: GenerateConfig, job: Job, demand: Demand, note: Callable[[str], None]) -> ReplicaPool:
    """Make the replica pool that the configuration asks for. Ray is imported only where it is used."""
    if config.cluster.name == "inline":
        return InlinePool(job, config.cluster, note)
    from pipeline.run.cluster.pool import RayPool

    return RayPool(job, config.cluster, demand, note)


def _metrics(plan: Plan, driver: str, deadline: datetime.datetime | None, pool: ReplicaPool) -> Metrics:
    """Make the metrics of a run on Ray, which serves their endpoint."""
    from pipeline.run.cluster.meter import RayMeter

    return Metrics(RayMeter(), plan=plan.plan8, driver=driver, deadline=deadline, starting=pool.pending)


def _driver_id() -> str:
    started = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    host = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "host"
    return f"{started}-{host}-{os.getpid()}-{secrets.token_hex(2)}"
