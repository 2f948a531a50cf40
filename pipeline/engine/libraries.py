"""Imports torch and transformers without the parts that no engine here uses, which take more than half of the time.

With any model, transformers imports torch's compiler (with it sympy, triton and a code generator), distributed tensors, and,
where they are installed, accelerate and scipy. None of them runs here: models are not compiled, and each is on one device. The
compiler is put off until something asks for it; of the others transformers is told that they are not there, as is the case on
some machines. transformers also reads its hundreds of files for the names in them, which waits until one is asked for. Where
transformers' models have already been imported, nothing is changed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import PathFinder
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
    put_off("transformers", {"__version__": importlib.metadata.version("transformers")}, names_only=True)
    put_off("transformers.models", {}, names_only=True)
    import transformers.dependency_versions_check
    import transformers.utils
    from transformers.utils import import_utils

    answers = {**dict.fromkeys(ABSENT, _no), "direct_transformers_import": _whole}
    for name, answer in answers.items():
        for module in (transformers.utils, import_utils):
            if hasattr(module, name):
                setattr(module, name, answer)
    with contextlib.suppress(ImportError):  # many tokenizers name this class, and are looked for among all names
        from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

        vars(sys.modules["transformers"])["PreTrainedTokenizerFast"] = PreTrainedTokenizerFast


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


def put_off(name: str, known: dict[str, Any], alone: Iterable[str] = (), *, names_only: bool = False) -> None:
    """Put a package in place that is executed when a name in it is first asked for, unless it has been imported.

    Args:
        name: The package, at the top or within one that has been imported or put off.
        known: Names that do not execute it, with their values until it is executed.
        alone: Modules in it that import nothing of it: they are imported here. One that is not there is left out.
        names_only: Whether its modules do without it, so that their import does not execute it either.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    for inner in alone:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"{name}.{inner}")
    vars(module).update(known)
    if not names_only:
        del vars(module)["__path__"]  # whoever imports another module in it asks for this
    module.__class__ = _LateNames if names_only else _Late
    _bind(name)


def _bind(name: str) -> None:
    """Let the package around one hold it, as an import does."""
    package, _, child = name.rpartition(".")
    if package:
        setattr(sys.modules[package], child, sys.modules[name])


class _Late(ModuleType):
    """A package that has not been executed."""

    def __getattr__(self, name: str) -> Any:
        # other names with underscores are asked for by whoever walks through all modules
        if (name.startswith("__") and name != "__path__") or not _execute(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(sys.modules[self.__name__], name)


class _LateNames(_Late):
    """A package that has not been executed, whose modules can be imported nevertheless."""

    def __getattr__(self, name: str) -> Any:
        if name.isidentifier() and PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__) is not None:
            return importlib.import_module(f"{self.__name__}.{name}")
        return super().__getattr__(name)


class _Executed(ModuleType):
    """A package that has put another object into `sys.modules` instead of itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[self.__name__], name)


_LOCK = threading.RLock()
_executing: set[str] = set()


def _execute(module: _Late) -> bool:
    """Execute a package, and return True; False: this thread is executing it, and its own modules ask for what comes later."""
    name, spec = module.__name__, module.__spec__
    assert spec is not None and spec.loader is not None
    with _LOCK:
        if name in _executing:
            return False
        if isinstance(module, _Late):
            hidden = "__path__" not in vars(module)
            vars(module)["__path__"] = spec.submodule_search_locations
            _executing.add(name)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                if hidden:
                    del vars(module)["__path__"]
                raise
            finally:
                _executing.discard(name)
            module.__class__ = ModuleType if sys.modules[name] is module else _Executed  # type: ignore[assignment]
            _bind(name)
    return True


def _unchanged(function: Any = None, *_: object, **__: object) -> Any:
    """Stand for a decorator of the compiler: a function that is never compiled needs no mark."""
    return function if function is not None else _unchanged


def _no(*_: object, **__: object) -> bool:
    return False


def _whole(*_: object, **__: object) -> ModuleType:
    """Return transformers as it is now, where its processors would have it executed once more."""
    return sys.modules["transformers"]


def preload() -> None:
    """Have the linker load torch's own libraries in a thread, while Python does something else.

    An import would hold the interpreter's lock meanwhile. The linker has a lock, too: other libraries that are loaded in this
    time wait for these. Where anything fails, the import of torch does it all, or says why it cannot.
    """
    spec = importlib.util.find_spec("torch")
    if sys.platform != "linux" or "torch" in sys.modules or spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent / "lib"
    threading.Thread(target=_link, args=(folder,), name="link", daemon=True).start()


def _link(folder: Path) -> None:
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        load = ctypes.CDLL(None).dlopen  # called from outside, it runs without the interpreter's lock
        load.restype = ctypes.c_void_p
        # as torch does it: the names of the first are seen by everything that is loaded later
        for name, mode in (
            ("libtorch_global_deps.so", os.RTLD_GLOBAL),
            ("libtorch_cpu.so", 0),
            ("libtorch_cuda.so", 0),
        ):
            load(os.fsencode(folder / name), os.RTLD_NOW | mode)
