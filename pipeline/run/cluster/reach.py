"""What a replica's node must see as the driver sees it: the output's folder, the input, and the model's bytes.

A path means something else on every node that does not share it. Without this look, a node's parts would lie on its own
disk, and another model of the same name would be taken for the planned one.
"""

from __future__ import annotations

from pipeline.engine.registry import open_backend
from pipeline.errors import ModelRefused, PlanRefused
from pipeline.output.folder import OutputFolder
from pipeline.prompts.files.listing import filesystem_for
from pipeline.prompts.files.reader import RowReader
from pipeline.store.base import open_store
from pipeline.work.job import Job


def check_reach(job: Job) -> None:
    """Look at output, input and model from here.

    Raises:
        PlanRefused: If the output's folder does not hold the plan.
        InputRefused: If the first input file is not there, or is not the one that was planned.
        ModelRefused: If the model is not there, or is not the one that was planned with.
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
    found = open_backend(job.model, job.engine).identify(gpus=float(job.device == "cuda")).content
    if found != planned:
        different = min(name for name in planned.keys() | found.keys() if planned.get(name) != found.get(name))
        raise ModelRefused(
            f"model.path={job.model.path}: {different} is not what the driver has; give every node the same"
        )
