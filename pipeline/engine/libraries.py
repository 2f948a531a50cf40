"""Imports torch and transformers without the parts that no engine here uses, which take more than half of the time.

With any model, transformers imports torch's compiler (with it sympy, triton and a code generator), distributed tensors, and,
where they are installed, accelerate and scipy. None of them runs here: models are not compiled, and each is on one device. The
compiler is put off until something asks for it; of the others transformers is told that they are not there, as is the case on
some machines. Where transformers' models have already been imported, nothing is changed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ABSENT = ("is_accelerate_available", "is_scipy_available", "is_torch_distributed_available")
"""What transformers asks before it imports something: functions of `transformers.utils`."""

MARKS = ("allow_in_graph", "assume_constant_result", "disable")
"""Decorators of the compiler that are used where it does not run."""


def import_libraries() -> None:
    """Import torch and transformers, if that has not been done."""
    if "transformers.modeling_utils" in sys.modules:
        return
    import torch  # noqa: F401  # first: the compiler is a part of it

    put_off("torch._dynamo", dict.fromkeys(MARKS, _unchanged), ["_trace_wrapped_higher_order_op"])
    import transformers.utils
    from transformers.utils import import_utils

    for name in ABSENT:
        for module in (transformers.utils, import_utils):
            if hasattr(module, name):
                setattr(module, name, _no)
    _read_names_once(import_utils)


def _read_names_once(import_utils: Any) -> None:
    """Keep transformers from reading all its files for their names twice: for its own package, and for that of the models."""
    scan = getattr(import_utils, "create_import_structure_from_path", None)
    if scan is None or not hasattr(scan, "cache_info"):
        return

    def scan_folder(path: Any) -> Any:
        """Ask for the folder, whose names are still in the cache, and not for the file `__init__.py` in it."""
        return scan(Path(path).parent if Path(path).is_file() else path)

    import_utils.create_import_structure_from_path = scan_folder


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Within it, weights that have no memory yet are not initialized: their numbers come from a file.

    torch computes the shape of random numbers by its compiler's means, for which it imports sympy.
    """
    from torch.nn import init

    drawing = {name: function for name, function in vars(init).items() if name.endswith("_") and name[0] != "_"}

    def unless_meta(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def drawn(tensor: Any, *arguments: Any, **named: Any) -> Any:
            return tensor if tensor.is_meta else function(tensor, *arguments, **named)

        return drawn

    for name, function in drawing.items():
        setattr(init, name, unless_meta(function))
    try:
        yield
    finally:
        for name, function in drawing.items():
            setattr(init, name, function)


def put_off(name: str, known: dict[str, Callable[..., Any]], alone: Iterable[str] = ()) -> None:
    """Put a package in place that is executed when a name or a module in it is first asked for, unless it has been imported.

    Args:
        name: The package, within a package that has been imported.
        known: Names that do not execute it, with their values until it is executed.
        alone: Modules in it that import nothing of it: they are imported here. One that is not there is left out.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    for inner in alone:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"{name}.{inner}")
    del vars(module)["__path__"]  # whoever imports another module in it asks for this
    vars(module).update(known)
    module.__class__ = _Late
    package, _, child = name.rpartition(".")
    setattr(sys.modules[package], child, module)


class _Late(ModuleType):
    """A package that has not been executed."""

    def __getattr__(self, name: str) -> Any:
        # other names with underscores are asked for by whoever walks through all modules
        if (name.startswith("__") and name != "__path__") or not _execute(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)


_EXECUTING = threading.RLock()


def _execute(module: _Late) -> bool:
    """Execute a package; return whether that was done now, or by another thread meanwhile."""
    spec, names = module.__spec__, vars(module)
    assert spec is not None and spec.loader is not None
    with _EXECUTING:
        if (
            "__path__" in names and type(module) is _Late
        ):  # by this thread: its own modules ask for names that come later
            return False
        if type(module) is _Late:
            names["__path__"] = spec.submodule_search_locations
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del names["__path__"]
                raise
            module.__class__ = ModuleType  # type: ignore[assignment]  # there is nothing to wait for any more
    return True


def _unchanged(function: Any = None, *_: object, **__: object) -> Any:
    """Stand for a decorator of the compiler: a function that is never compiled needs no mark."""
    return function if function is not None else _unchanged


def _no(*_: object, **__: object) -> bool:
    return False
