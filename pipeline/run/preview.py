"""A preview from its configuration to what is seen of it: a few rows in this process, and nothing written."""

from __future__ import annotations

import dataclasses

from pipeline.machine import cores
from pipeline.run.dispatch.sizing import Demand, Node, choose_sizing
from pipeline.run.show.preview import show_preview
from pipeline.run.show.progress import progress_view
from pipeline.run.signals import signals_raise
from pipeline.work.config import GenerateConfig
from pipeline.work.preview import preview as previewed


def preview(config: GenerateConfig) -> None:
    """Generate some rows of a job here, whatever the cluster is, and show them.

    Raises:
        PromptmillError: If the job is refused, or its model or input cannot be used here.
    """
    inline = dataclasses.replace(config.cluster, name="inline", address=None)
    sizing = choose_sizing(inline, Demand(1, 0), [Node(cores())])
    with signals_raise(), progress_view(live=False) as view:
        found = previewed(config, sizing.threads, view.note, view.stage)
    show_preview(found)
