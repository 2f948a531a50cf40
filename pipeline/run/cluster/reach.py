"""Checks that a replica's node sees the same output folder, input and model as the driver.

A path means something else on every node that does not share it. Without this check, a node would write its parts to its own
disk, or use another model of the same name.
"""

from __future__ import annotations

from pipeline.engine.registry import open_backend
from pipeline.errors import ModelRefused, PlanRefused
from pipeline.output.folder import OutputFolder
from pipeline.prompts.files.locate import filesystem_for
from pipeline.prompts.files.reader import RowReader
from pipeline.store.base import open_store
from pipeline.work.job import Job


def check_reach(job: Job) -> None:
    """Check output, input and model on this node.

    Raises:
        PlanRefused: If the output folder does not hold the plan.
        InputRefused: If the first input file is missing, or is not the planned one.
        ModelRefused: If the model is missing, or is not the planned one.
    """
    path = job.output.path
    if not OutputFolder(open_store(path, allow_unsafe=job.output.allow_unsafe_store)).holds(job.plan):
        raise PlanRefused(
            f"output.path={path}: does not hold the plan that the driver put there; nodes need a folder that they share, or "
            "an object store"
        )
    filesystem, _ = filesystem_for(job.source.path)
    RowReader(filesystem, job.plan.files, [], job.columns).look()
    planned = job.plan.fingerprint["model"]["content"]
    found = open_backend(job.model, job.engine).identify(gpus=float(job.device == "cuda"), fresh=True).content
    if found != planned:
        different = min(name for name in planned.keys() | found.keys() if planned.get(name) != found.get(name))
        raise ModelRefused(
            f"model.path={job.model.path}: {different} is not what the driver has; give every node the same"
        )
