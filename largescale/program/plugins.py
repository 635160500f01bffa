"""Parts of the user's own, without a fork: named by import path (`package.module:Name`) or by an entry point."""

import importlib
import inspect
import typing
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ConfigDict, create_model

from largescale.config import check
from largescale.settings import Settings, UserError

T = TypeVar("T")


def is_plug_in(name: str, group: str) -> bool:
    """Whether a name is an import path, or an entry point of the group."""
    return ":" in name or name in _entry_points(group)


@lru_cache
def _entry_points(group: str) -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=group)}


def find(name: str, group: str, bases: tuple[type[T], ...]) -> type[T]:
    """The class of that name.

    Raises:
        UserError: it cannot be imported, or is none of the bases.
    """
    found = imported(_entry_points(group).get(name, name))
    if not (isinstance(found, type) and issubclass(found, bases)):
        expected = " or ".join(f"{base.__module__}.{base.__qualname__}" for base in bases)
        raise UserError(f"{name} is no subclass of {expected}; derive it from there")
    return found


def imported(path: str, said: str = "") -> Any:
    """What `package.module:name` names.

    Args:
        said: before the path, in the error.

    Raises:
        UserError: there is no such module or name.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{said}{path} cannot be imported ({error}); expected package.module:name; the package must be installed, or its "
            "folder be in PYTHONPATH"
        ) from None


def arguments_of(cls: type, values: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """The values as arguments of a class: checked by its annotations, its defaults filled in.

    Args:
        given: arguments that the project fills in itself.

    Raises:
        UserError: unknown names (the nearest is named), missing or wrong values.
    """
    model = _settings(cls, frozenset(given))
    try:
        checked = check(model, dict(values))
    except UserError as error:
        raise UserError(f"{cls.__name__}: {str(error).partition(chr(10))[2].strip()}") from None
    return {name: getattr(checked, name) for name in model.model_fields}


@lru_cache
def _settings(cls: type, given: frozenset[str]) -> type[Settings]:
    hints = typing.get_type_hints(inspect.getattr_static(cls, "__init__"))
    taken = {name: p for name, p in inspect.signature(cls).parameters.items() if name not in given}
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if p.default is p.empty else p.default)
        for name, p in taken.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    return create_model(cls.__name__, __base__=_Arguments, **fields)


class _Arguments(Settings):
    model_config = ConfigDict(arbitrary_types_allowed=True)
