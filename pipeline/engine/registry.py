"""Lists the backends by the names that `engine.name` takes. A backend's module is imported when it is opened."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.engine.base import Backend
    from pipeline.engine.config import EngineConfig, ModelConfig

BACKENDS = {
    "continuous": "pipeline.engine.own:ContinuousBackend",
    "static": "pipeline.engine.own:StaticBackend",
}


def open_backend(model: ModelConfig, engine: EngineConfig) -> Backend:
    """Return the backend that `engine.name` names, constructed for a model."""
    module, _, name = BACKENDS[engine.name].partition(":")
    made: Backend = getattr(importlib.import_module(module), name)(model, engine)
    return made
