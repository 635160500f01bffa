"""torch's compiler is imported when something is compiled.

Before the first update of an optimizer, and with the models of torchvision, torch imports it (`torch._dynamo`, with sympy, triton
and FSDP: nearly as long as torch itself) to say that nothing is compiled there. A stand-in says so until anything else is asked.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"
PARTS = (NAME, f"{NAME}.utils", f"{NAME}.trace_rules")


class _Part(ModuleType):
    """Stands for a module of the compiler: what it has not itself is asked of the compiler, which takes its place."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of each module by who looks through all of them
            raise AttributeError(name)
        _import_compiler()
        return getattr(sys.modules[self.__name__], name)


def import_compiler_late() -> None:
    """From here on it is imported where it is needed; where it is already there, nothing changes."""
    if NAME in sys.modules:
        return
    compiler, utils, rules = (_Part(name) for name in PARTS)
    spared: list[Any] = []
    compiler.__dict__.update(
        __path__=[], utils=utils, trace_rules=rules, spared=spared, disable=_spare(spared), graph_break=lambda msg="": None
    )
    utils.__dict__.update(get_optimize_ddp_mode=lambda: "ddp_optimizer", is_compile_supported=_is_compile_supported)
    rules.__dict__.update(clear_lru_cache=lambda: None)
    sys.modules.update(zip(PARTS, (compiler, utils, rules), strict=True))
    sys.meta_path.insert(0, _Finder())


def _spare(spared: list[Any]) -> Callable[..., Any]:
    def disable(fn: Callable[..., Any], recursive: bool = True, **options: Any) -> Callable[..., Any]:
        """It is called as it is, since nothing is compiled."""
        spared.append(fn)
        return fn

    return disable


def _is_compile_supported(device: Any) -> Any:
    _import_compiler()
    return sys.modules[f"{NAME}.utils"].is_compile_supported(device)


def _import_compiler() -> None:
    stand_in = sys.modules.get(NAME)
    if not isinstance(stand_in, _Part):
        return
    for name in PARTS:
        del sys.modules[name]
    importlib.import_module(NAME)
    for function in stand_in.spared:  # torch keeps there what `disable` gave, and now asks the compiler
        with suppress(AttributeError):
            del function.__dynamo_disable


class _Finder:
    """Finder and loader of further modules of the compiler while its stand-in is there."""

    def find_spec(self: Any, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(f"{NAME}.") or not isinstance(sys.modules.get(NAME), _Part):
            return None
        _import_compiler()
        importlib.import_module(fullname)
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._spec = sys.modules[spec.name].__spec__
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
