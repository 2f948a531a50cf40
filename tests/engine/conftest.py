"""Tiny models with random weights, made once a session, and what the tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.engine.small.tiny_models import DEMO, FAMILIES, Tiny, write_model

MakeTiny = Callable[..., Tiny]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Start every test with one thread, and leave torch as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> MakeTiny:
    """Make a tiny model of a family, or return the one that was made before with the same options."""
    made: dict[object, Tiny] = {}

    def make(family: str = "gpt2", **options: int) -> Tiny:
        key = (family, *sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            write_model(folder, FAMILIES[family](**options), seed=len(family))
            made[key] = Tiny(folder)
        return made[key]

    return make


@pytest.fixture(scope="session")
def demo() -> Tiny:
    """The committed demo model."""
    return Tiny(DEMO)
