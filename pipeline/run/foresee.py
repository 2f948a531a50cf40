"""What a job takes, where its replicas would run: for `plan`, and as the prediction that is stored with an output."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.engine.base import Foreseeable
from pipeline.engine.calibration.figures import Calibration
from pipeline.engine.calibration.known import Endings, keep_endings, key_of_endings
from pipeline.engine.registry import open_backend
from pipeline.errors import ModelRefused, PromptmillError
from pipeline.machine import available_bytes, cores
from pipeline.output.folder import OTHER_SCORES, OutputFolder, other_scores
from pipeline.output.foreign import check_vacant
from pipeline.output.record.counts import Counts
from pipeline.output.record.prediction import Prediction, put_prediction
from pipeline.planning.fingerprint import differences
from pipeline.planning.plan import Plan
from pipeline.run.cluster.capacity import check_machine
from pipeline.run.dispatch.sizing import Demand, Node, Sizing, choose_sizing
from pipeline.run.show.progress import progress_view
from pipeline.run.signals import signals_raise
from pipeline.store.base import Store, open_store
from pipeline.types import FinishReason, SamplingParams
from pipeline.wording import counted, named
from pipeline.work.config import GenerateConfig
from pipeline.work.estimate.estimate import QUICK, THOROUGH, Estimate, Place, estimate
from pipeline.work.estimate.expect import ends_early
from pipeline.work.estimate.risks import risks
from pipeline.work.prepare import Prepared, prepare
from pipeline.work.score.config import ScoreConfig

RAY_SECONDS = 7.0
"""Seconds until a Ray of the job's own has started, and a replica's process in it. Measured on two cores; it mostly waits."""
DRIVER_BYTES = 80 << 20
"""Memory that a job takes in this process besides the model: threads that read and write, and their buffers. Measured."""
RAY_BYTES = 120 << 20
"""The same of a replica's process on Ray."""
PATIENCE = 5.0
"""Most seconds that the end of a job waits for its prediction."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What `plan` shows.

    Attributes:
        estimate: What the job takes.
        config: What was asked for.
        committed: Parts that the output already has.
        warnings: One line per risk, doubtful option or note.
        unknown: Why time and memory are unknown; empty if they are known.
        measured: Whether the calibration was made now.
    """

    estimate: Estimate
    config: GenerateConfig
    committed: int
    warnings: tuple[str, ...]
    unknown: str
    measured: bool


def foresee(config: GenerateConfig) -> Foreseen:
    """Plan a job, and estimate what it takes. It starts no model but a calibration's, and writes nothing to the output.

    Raises:
        PromptmillError: If the job would be refused.
    """
    with signals_raise(), progress_view(live=False) as view:
        check_machine(config.cluster)
        view.stage("checking the input and the model's files")
        store = open_store(config.output.path, allow_unsafe=config.output.allow_unsafe_store)
        folder = OutputFolder(store)
        recipe = "score" if isinstance(config, ScoreConfig) else "generate"
        prepared = prepare(config, recipe, folder.begun())
        check_vacant(store, config.output.path)
        told = list(_of_folder(folder, prepared))
        place, doubts = _place(config, prepared, view.note)
        backend = open_backend(prepared.job.model, prepared.job.engine)
        measured: list[int] = []
        known, _ = _calibration(config, prepared, place, backend, None)

        def measure(layers: int, of: int) -> None:
            measured.append(layers)
            why = (
                "no calibration of this model on this machine yet"
                if known is None
                else "other work disturbed the calibration of this model"
            )
            view.note(
                f"{why}: timing one with random weights, {layers} of {counted(of, 'layer')}; takes up to a minute, once"
            )
            view.stage("calibrating")

        calibration, unknown = _calibration(config, prepared, place, backend, measure)
        view.stage("estimating")
        found = estimate(prepared.job, config, place, prepared.weight_bytes, backend, calibration, THOROUGH)
        lines = (*told, *doubts, *prepared.doubts, *risks(found, config, datetime.datetime.now()))
        return Foreseen(found, config, len(folder.committed(prepared.job.plan)), lines, unknown, bool(measured))


def predict(config: GenerateConfig, prepared: Prepared) -> Prediction | None:
    """Return a prediction from a calibration that is known; None if there is none, or it would take long to make."""
    backend = open_backend(prepared.job.model, prepared.job.engine)
    if config.cluster.name == "existing":
        return None  # this machine's calibration says little of a cluster's nodes
    place, _ = _place(config, prepared, lambda line: None)
    calibration, _ = _calibration(config, prepared, place, backend, None)
    if calibration is None:
        return None
    found = estimate(prepared.job, config, place, prepared.weight_bytes, backend, calibration, QUICK, quick=True)
    return None if found.time is None else found.prediction()


class Foreseeing:
    """Stores a prediction with an output, if one can be made quickly, while the job starts.

    Args:
        store: The output folder.
        config: The job's configuration.
        prepared: The job.
    """

    def __init__(self, store: Store, config: GenerateConfig, prepared: Prepared) -> None:
        """Begin."""
        self._store, self._config, self._prepared = store, config, prepared
        self._thread = threading.Thread(target=self._run, name="foresee", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait for it, not for long."""
        self._thread.join(timeout=PATIENCE)

    def _run(self) -> None:
        try:
            prediction = predict(self._config, self._prepared)
            if prediction is not None:
                put_prediction(self._store, prediction)
        except Exception as error:  # whatever it is, the job itself meets it and says it better
            _log.debug("no prediction: %s", named(error))


def remember_endings(plan: Plan, sampling: SamplingParams, totals: Counts) -> None:
    """Remember how long completions became, for the next plan with this model and these stop rules."""
    asked = plan.fingerprint
    if asked.get("recipe") != "generate" or asked["source"]["sampling_column"] is not None or not ends_early(sampling):
        return
    stopped, cut = (totals.finish_reasons.get(reason, 0) for reason in (FinishReason.STOP, FinishReason.LENGTH))
    if stopped + cut and "model" in asked:  # a benchmark of the driver has none
        key = key_of_endings(asked["model"]["content"], sampling)
        keep_endings(key, Endings(totals.completion_tokens, stopped, stopped + cut))


def _of_folder(folder: OutputFolder, prepared: Prepared) -> list[str]:
    begun, plan = folder.begun(), prepared.job.plan
    if begun is None or folder.holds(plan):
        return []
    if other_scores(begun, plan.fingerprint):
        return [OTHER_SCORES]
    changed = "; ".join(differences(begun, plan.fingerprint)[:3])
    return [
        f"the output folder holds another plan, so that this job is refused; choose another output.path ({changed})"
    ]


def _calibration(
    config: GenerateConfig, prepared: Prepared, place: Place, backend: object,
    measure: Callable[[int, int], None] | None,
) -> tuple[Calibration | None, str]:  # fmt: skip
    """Return what is known of the model's speed here, or why nothing is."""
    if not isinstance(backend, Foreseeable):
        return None, f"engine={config.engine.name} does not say how long it takes"
    if config.cluster.gpus_per_replica > 0:
        return None, "they are predicted for processors only, and these replicas have GPUs"
    try:
        job, scoring = prepared.job, isinstance(config, ScoreConfig)
        found = backend.calibration(job.stats, job.sampling, place.threads, measure, scoring=scoring)
    except (ModelRefused, MemoryError) as error:
        return None, f"the calibration failed: {named(error)}"
    return found, "" if found is not None else f"engine={config.engine.name} has no calibration"


def _place(config: GenerateConfig, prepared: Prepared, note: Callable[[str], None]) -> tuple[Place, list[str]]:
    """Return where the replicas would run, and what is to be said about it."""
    cluster, demand = config.cluster, Demand(prepared.job.plan.shard_count, prepared.weight_bytes)
    free = available_bytes()
    if cluster.name == "existing":
        return _on_cluster(config, demand, note)
    sizing = choose_sizing(cluster, demand, [Node(cores(), cluster.gpus_per_replica * demand.shards)])
    local = cluster.name == "local"
    return Place(
        sizing.replicas,
        sizing.threads,
        sizing.replicas,
        1,
        RAY_SECONDS if local else 0.0,
        RAY_BYTES if local else DRIVER_BYTES,
        free,
    ), []


def _on_cluster(config: GenerateConfig, demand: Demand, note: Callable[[str], None]) -> tuple[Place, list[str]]:
    """Ask a cluster for its nodes; if it does not answer, plan for one machine like this."""
    from pipeline.run.cluster.connect import connect, ray  # late: it imports Ray
    from pipeline.run.cluster.nodes import nodes

    free, lines = available_bytes(), ["the time is that of this machine's processor; the cluster's may be others"]
    try:
        connect(config.cluster, None, note)
        sizes = [node.size for node in nodes()]
        ray.shutdown()
    except PromptmillError as error:
        lines = [f"{error}; planned for one machine like this instead"]
        sizes = [Node(cores(), config.cluster.gpus_per_replica, free)]
    sizing = choose_sizing(config.cluster, demand, sizes)
    together, machines = _spread(sizing, sizes)
    known = [size.memory for size in sizes if size.memory is not None]
    return Place(
        sizing.replicas, sizing.threads, together, machines, RAY_SECONDS, RAY_BYTES, min(known, default=free)
    ), lines


def _spread(sizing: Sizing, sizes: list[Node]) -> tuple[int, int]:
    """Return (most replicas on one machine, machines that have any)."""
    room, left, machines, together = sorted((sizing.fit(size) for size in sizes), reverse=True), sizing.replicas, 0, 1
    for fits in room:
        if left <= 0 or not fits:
            break
        machines, together, left = machines + 1, max(together, min(fits, left)), left - fits
    return together, max(1, machines)
