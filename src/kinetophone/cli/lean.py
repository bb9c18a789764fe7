"""A quick start for commands: stand-ins for modules that making a clip imports but never runs.

diffusers and transformers import torch's compiler to mark functions for it, SciPy for schedulers and losses,
and every model they know. That is more than half of the time before the first step. A stand-in takes the
place of such a module and imports it as soon as anything of it is used, so nothing is missing. This changes
``sys.modules``, so only the process of a command does it; importing the package does not.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


@contextmanager
def quick_start() -> Iterator[None]:
    """A context for the imports of a command and for loading its model.

    Garbage is not collected in it: imports make a million objects that all stay, and each collection visits
    them all. They are never visited again.
    """
    collecting, distributions = gc.isenabled(), importlib.metadata.packages_distributions
    gc.disable()
    try:
        # diffusers reads the list of files of all that is installed, for names such as onnxruntime-gpu.
        importlib.metadata.packages_distributions = lambda: {}
        for name, names in _STAND_INS.items():
            if name not in sys.modules:
                _StandIn.put(name, names)
        importlib.metadata.packages_distributions = distributions
        yield
    finally:
        importlib.metadata.packages_distributions = distributions
        gc.freeze()
        if collecting:
            gc.enable()


def _unmarked(function: Any = None, *args: Any, **options: Any) -> Any:
    """A decorator that returns the function unchanged, in place of one that marks it for the compiler."""
    return _unmarked if function is None else function


def _late(module: str, name: str) -> Callable[..., Any]:
    """A function that imports the real one when it is called."""
    return lambda *args, **options: getattr(importlib.import_module(module), name)(*args, **options)


_WRAPPED = "torch._dynamo._trace_wrapped_higher_order_op"
# By module, what its importers take from it at once; None: a package that imports all of its modules, of
# which only a few are needed. In this order, because a stand-in's parents are imported.
_STAND_INS: dict[str, dict[str, Any] | None] = {
    "torch._dynamo": dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _unmarked),
    _WRAPPED: {"TransformGetItemToIndex": _late(_WRAPPED, "TransformGetItemToIndex")},
    "scipy.integrate": {},
    "scipy.optimize": {"linear_sum_assignment": _late("scipy.optimize", "linear_sum_assignment")},
    "scipy.stats": {},
    "diffusers.hooks": None,
    "diffusers.models.autoencoders": None,
    "diffusers.models.transformers": None,
    "diffusers.models.unets": None,
}


class _StandIn(ModuleType):
    """A module that is imported once an attribute is used that is not given; see :data:`_STAND_INS`."""

    @classmethod
    def put(cls, name: str, names: dict[str, Any] | None) -> None:
        """Take the place of the module ``name``, which has not been imported, if there is one."""
        parent = importlib.import_module(name.rpartition(".")[0])  # itself perhaps a stand-in
        spec = PathFinder.find_spec(name, getattr(parent.__spec__, "submodule_search_locations", None))
        if spec is None or name in sys.modules:
            return
        module = cls(name)
        module.__dict__.update(names or {}, __spec__=spec, __file__=spec.origin)
        if spec.submodule_search_locations is not None:
            inside = list(spec.submodule_search_locations)
            module.__dict__["__path__"] = inside if names is None else _Inside(module)
        sys.modules[name] = module

    def imported(self) -> ModuleType:
        """The module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module by inspect and others
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self.imported(), name)


class _Inside(list[str]):
    """The search path of a package with a stand-in: the package is imported before any of its modules."""

    def __init__(self, module: _StandIn) -> None:
        self.module = module

    def __iter__(self) -> Iterator[str]:
        return iter(self.module.imported().__path__)
