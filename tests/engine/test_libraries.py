"""What is left out of the import of transformers, and that a model comes to the same with and without it."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pipeline.engine.libraries import ABSENT, MARKS, put_off, undrawn
from tests.small_runs import MODEL, python

HEAVY = ("accelerate", "scipy", "sympy", "torch._inductor", "torch.distributed.tensor", "triton")
"""What transformers brings in by itself. A library may be installed or not."""

WATCHED = f"""
import json, sys
from pipeline.engine.libraries import import_libraries, undrawn
FIRST
import torch
from transformers import AutoModelForCausalLM
with CONTEXT:
    model = AutoModelForCausalLM.from_pretrained({str(MODEL)!r}, attn_implementation="eager")
heavy = sorted(set({HEAVY!r}) & set(sys.modules))
packages = "transformers", "transformers.models"
names = {{module: sorted(vars(sys.modules[module])["_class_to_module"]) for module in packages}}
logits = model(torch.tensor([[1, 2, 3]])).logits.tolist()
LAST
print(json.dumps({{"heavy": heavy, "names": names, "logits": logits, "end": sorted(set({HEAVY!r}) & set(sys.modules))}}))
"""


def seen(first: str, context: str, last: str = "") -> dict[str, Any]:
    """What a new process has imported when a model is loaded, and the model's logits."""
    done = python(WATCHED.replace("FIRST", first).replace("CONTEXT", context).replace("LAST", last))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_model_comes_to_the_same_without_what_is_left_out() -> None:
    light, whole = seen("import_libraries()", "undrawn()"), seen("import contextlib", "contextlib.nullcontext()")
    assert {"sympy", "torch._inductor", "torch.distributed.tensor"} <= set(whole["heavy"]), "the list means something"
    assert light["heavy"] == []
    assert light["logits"] == whole["logits"]
    assert light["names"] == whole["names"], "what can be imported from transformers"


def test_what_is_put_off_is_there_when_it_is_asked_for() -> None:
    compiled = "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).tolist() == [2, 2]"
    found = seen("import_libraries()", "undrawn()", f"{compiled}; import torch.distributed.tensor")
    assert "torch._inductor" in found["end"] and "torch.distributed.tensor" in found["end"]


def test_where_transformers_is_imported_nothing_changes() -> None:
    """In this process it has been."""
    import torch._dynamo
    from transformers.utils import import_utils

    from pipeline.engine.libraries import import_libraries

    before = [getattr(import_utils, name) for name in ABSENT], torch._dynamo, [getattr(torch._dynamo, n) for n in MARKS]
    import_libraries()
    assert before == (
        [getattr(import_utils, name) for name in ABSENT],
        torch._dynamo,
        [getattr(torch._dynamo, n) for n in MARKS],
    )


@pytest.fixture
def putoff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package with a module `late`, which counts how often it is executed, and imports its own submodule in two ways."""
    package = tmp_path / "putoff"
    (package / "late").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "late" / "inner.py").write_text("number = 5")
    (package / "late" / "outer.py").write_text("from putoff import late; number = late.value")
    (package / "late" / "__init__.py").write_text(
        "import sys; sys.executed += 1\n"
        "from . import inner\n"
        "from putoff.late import inner as again\n"
        "def mark(f): return 'its own'\n"
        "value = 3\n"
        "from putoff.late import outer\n"
    )
    monkeypatch.setattr(sys, "executed", 0, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("putoff")
    for name in [name for name in sys.modules if name.startswith("putoff")]:
        del sys.modules[name]


def test_a_module_is_executed_once_at_the_first_name_that_is_not_known(putoff: ModuleType) -> None:
    put_off("putoff.late", {"mark": lambda f: f}, ["inner", "not_there"])
    assert putoff.late.mark("unchanged") == "unchanged"
    assert not hasattr(putoff.late, "__wrapped__")
    assert importlib.import_module("putoff.late.inner").number == 5
    assert executed() == 0
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(putoff.late.value)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 4 and executed() == 1
    assert putoff.late.mark("f") == "its own" and putoff.late.again.number == 5
    with pytest.raises(AttributeError, match="nothing"):
        _ = putoff.late.nothing


def test_a_module_in_it_executes_it_first(putoff: ModuleType) -> None:
    put_off("putoff.late", {})
    assert importlib.import_module("putoff.late.outer").number == 3
    assert executed() == 1


def test_a_module_that_has_been_imported_stays_as_it_is(putoff: ModuleType) -> None:
    own = importlib.import_module("putoff.late")
    put_off("putoff.late", {"mark": lambda f: f})
    assert putoff.late is own and own.mark("f") == "its own"


def test_a_module_that_fails_is_tried_again(putoff: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "executed")
    put_off("putoff.late", {})
    with pytest.raises(AttributeError, match="executed"):
        _ = putoff.late.value
    monkeypatch.setattr(sys, "executed", 0, raising=False)
    assert putoff.late.value == 3


def executed() -> int:
    """How often the module has been executed."""
    return int(sys.executed)  # type: ignore[attr-defined]


def test_weights_with_memory_are_drawn_and_those_without_are_not() -> None:
    own = torch.nn.init.normal_
    with undrawn():
        torch.manual_seed(0)
        drawn = torch.nn.Embedding(4, 3).weight
        with torch.device("meta"):
            linear = torch.nn.Linear(3, 2)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.nn.Embedding(4, 3).weight)
    assert linear.weight.is_meta and linear.weight.shape == (2, 3)
    assert torch.nn.init.normal_ is own
