"""The settings of a class by dotted key, and the ones that a misspelt key may have meant."""

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic.fields import FieldInfo

from largescale.settings import Settings

ALIKE = 0.6
"""A second or third suggestion must be so like what was written."""


def walk(cls: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[Settings]]]:
    """Every setting under `cls` as (dotted key, field, class that has it): its own first, then those of its groups.

    Where a setting is a choice of classes, the settings of each follow one another.
    """
    groups = {name: _groups(field.annotation) for name, field in cls.model_fields.items()}
    yield from ((prefix + name, field, cls) for name, field in cls.model_fields.items() if _is_value(field.annotation))
    for name, classes in groups.items():
        for group in classes:
            yield from walk(group, f"{prefix}{name}.")


def with_defaults(
    cls: type[Settings], prefix: str = "", within: Settings | None = None
) -> Iterator[tuple[str, FieldInfo, type[Settings], Any]]:
    """As `walk`, each setting with its default: what the group around it gives, else its own.

    Args:
        within: the default of the group.
    """
    groups = {name: _groups(field.annotation) for name, field in cls.model_fields.items()}
    defaults: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        given = isinstance(within, cls)
        defaults[name] = getattr(within, name) if given else field.get_default(call_default_factory=True, validated_data=defaults)
        if _is_value(field.annotation):
            yield prefix + name, field, cls, defaults[name]
    for name, classes in groups.items():
        for group in classes:
            yield from with_defaults(group, f"{prefix}{name}.", defaults[name])


def _groups(annotation: Any) -> list[type[Settings]]:
    """The settings classes in an annotation: the class itself, or the members of a union."""
    return [member for member in _members(annotation) if isinstance(member, type) and issubclass(member, Settings)]


def _is_value(annotation: Any) -> bool:
    """Whether a setting can be written as `key=value`: it is no group, or a value may stand in place of one."""
    members = _members(annotation)
    return not _groups(annotation) or any(member in (str, int, float, bool) for member in members)


def _members(annotation: Any) -> list[Any]:
    """The annotation itself, or the members of a union."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _members(parts[0])
    return [member for part in parts for member in _members(part)] if origin in (typing.Union, types.UnionType) else [annotation]


def locate(cls: type[Settings], location: list[str]) -> tuple[str, list[str]]:
    """The key that the user wrote, and the keys that were valid there.

    Where a setting is a choice of classes, the location also names the class chosen: it is no part of the key, and the
    keys of the other classes are not valid.
    """
    parts: list[str] = []
    groups, valid = [cls], [key for key, _, _ in walk(cls)]
    for part in location:
        chosen = [group for group in groups if part == group.__name__ or (len(groups) > 1 and part == _tag(group))]
        if chosen:
            prefix = ".".join(parts) + "."
            own = [key for key, _, _ in walk(chosen[0], prefix)]
            groups, valid = chosen, [key for key in valid if not key.startswith(prefix)] + own
        else:
            parts.append(part)
            groups = [inner for g in groups if part in g.model_fields for inner in _groups(g.model_fields[part].annotation)]
    return ".".join(parts), valid


def _tag(cls: type[Settings]) -> str | None:
    """The value of `name` by which a class is chosen among others."""
    return cls.model_fields["name"].default if "name" in cls.model_fields else None


def nearest(key: str, valid: Iterable[str]) -> list[str]:
    """The settings or groups that `key` may have meant, likeliest first: one at least, three at most."""
    choices = sorted({*valid, *(parent for other in valid for parent in _parents(other))})
    ranked = sorted(choices, key=lambda other: -_likeness(key, other))
    return ranked[:1] + [other for other in ranked[1:3] if _likeness(key, other) >= 2 * ALIKE]


def _parents(key: str) -> list[str]:
    """`a.b.c` is in the groups `a` and `a.b`."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _likeness(key: str, other: str) -> float:
    """From 0 to 2: by the whole key and by its last name, which may be written out: `learning_rate` for `lr`."""
    name, known = key.rpartition(".")[2], other.rpartition(".")[2]
    initials = "".join(word[:1] for word in name.split("_"))
    of_names = 1.0 if len(known) > 1 and initials == known else difflib.SequenceMatcher(None, name, known).ratio()
    return difflib.SequenceMatcher(None, key, other).ratio() + of_names
