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

from pipeline.engine.libraries import ABSENT, MARKS, preload, put_off, undrawn
from tests.small_runs import MODEL, python

HEAVY = ("accelerate", "scipy", "sympy", "torch._inductor", "torch.distributed.tensor", "triton")
"""What transformers brings in by itself. A library may be installed or not."""

WATCHED = f"""
import json, sys
from pipeline.engine.libraries import import_libraries, undrawn
FIRST
import torch
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer
with CONTEXT:
    model = AutoModelForCausalLM.from_pretrained({str(MODEL)!r}, attn_implementation="eager")
    words = AutoTokenizer.from_pretrained({str(MODEL)!r})("Rain, again").input_ids
heavy = sorted(set({HEAVY!r}) & set(sys.modules))
packages = "transformers", "transformers.models"
import transformers
executed = "_class_to_module" in vars(sys.modules["transformers"])
transformers.GPT2Model, transformers.models.gpt2, transformers.models.GPT2Model
names = {{module: sorted(vars(sys.modules[module])["_class_to_module"]) for module in packages}}
logits = model(torch.tensor([[1, 2, 3]])).logits.tolist()
LAST
print(json.dumps({{"executed": executed, "words": words, "heavy": heavy, "names": names, "logits": logits,
                  "end": sorted(set({HEAVY!r}) & set(sys.modules))}}))
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
    assert light["logits"] == whole["logits"] and light["words"] == whole["words"]
    assert whole["executed"] and not light["executed"], "transformers' list of names is made only when it is asked for"
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


@pytest.fixture
def replacing(putoff: ModuleType, tmp_path: Path) -> str:
    """A package with a module `part`, which puts another object in its place when it is executed, as transformers does."""
    package = tmp_path / "putoff" / "listed"
    package.mkdir()
    (package / "part.py").write_text("number = 7")
    (package / "__init__.py").write_text(
        "import sys; sys.executed += 1\n"
        "from types import ModuleType\n"
        "from . import part\n"
        "class Listed(ModuleType):\n"
        "    value = 3\n"
        "    part = part\n"
        "sys.modules[__name__] = Listed(__name__)\n"
    )
    return f"{putoff.__name__}.listed"


def test_modules_in_a_list_of_names_do_not_execute_it(putoff: ModuleType, replacing: str) -> None:
    put_off(replacing, {"version": "1"}, names_only=True)
    held = sys.modules[replacing]
    assert importlib.import_module(f"{replacing}.part").number == 7
    assert putoff.listed.part.number == 7 and putoff.listed.version == "1"
    assert executed() == 0
    assert putoff.listed.value == 3 and executed() == 1
    assert putoff.listed is sys.modules[replacing] is not held, "the package around it holds what has taken its place"
    assert held.value == 3 and held.part.number == 7, "and so does who has imported it before"
    with pytest.raises(AttributeError, match="nothing"):
        _ = held.nothing
    assert executed() == 1


def test_a_list_of_names_that_fails_is_tried_again(
    putoff: ModuleType, replacing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys, "executed")
    put_off(replacing, {}, names_only=True)
    with pytest.raises(AttributeError, match="executed"):
        _ = putoff.listed.value
    assert importlib.import_module(f"{replacing}.part").number == 7
    monkeypatch.setattr(sys, "executed", 0, raising=False)
    assert putoff.listed.value == 3


PRELOADED = """
import sys, threading
from pathlib import Path
from pipeline.engine.libraries import preload
preload()
for thread in threading.enumerate():
    if thread.name == "link":
        thread.join()
maps = Path("/proc/self/maps").read_text()
assert "libtorch_cpu" in maps and "torch" not in sys.modules, maps
import torch
assert torch.tensor([[1.0, 2.0], [3.0, 4.0]]).mm(torch.eye(2)).tolist() == [[1.0, 2.0], [3.0, 4.0]]
before = threading.active_count()
preload()
assert threading.active_count() == before, "nothing is left to load"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what Linux says is in memory")
def test_torch_works_with_its_libraries_loaded_before() -> None:
    done = python(PRELOADED)
    assert done.returncode == 0, done.stderr


def test_without_torch_nothing_is_loaded_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    before = threading.active_count()
    preload()
    assert threading.active_count() == before


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
