"""Run configurations from a YAML file and `key=value` arguments: checked, explained, written down.

Needs no torch, so that `--help` and a misspelt key answer at once.
"""

import atexit
import difflib
import json
import os
import re
import select
import signal
import sys
import textwrap
import time
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from largescale.settings import Settings, UserError

C = TypeVar("C", bound=Settings)


def load(cls: type[C], arguments: Sequence[str]) -> C:
    """The configuration from `[config.yaml] [key=value ...]`; later values win.

    Raises:
        UserError: unknown or misspelt key, wrong type, contradictory values; names the key and the nearest valid one.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        if "=" in argument:
            key, _, text = argument.partition("=")
            _merge(values, _nested(key, _parse(argument, text)))
        else:
            _merge(values, read_yaml(Path(argument)))
    return check(cls, values)


def check(cls: type[C], values: dict[str, Any]) -> C:
    """Validate plain values; the error names each faulty key, and the nearest valid key of an unknown one."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        # a default that follows from a faulty setting is no fault of its own
        faults = [_explain(cls, fault) for fault in error.errors() if fault["type"] != "default_factory_not_called"]
        raise UserError("the configuration is not valid:\n  " + "\n  ".join(faults)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"there is no configuration file {path}; give a .yaml file or key=value settings (--help lists them)")
    try:
        values = yaml.load(path.read_text(), _Loader) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}, expected `key: value` lines")
    return values


def to_yaml(config: Settings) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def explain(cls: type[Settings], program: str, arguments: str = "[config.yaml] [key=value ...] [--dry-run] [--help]") -> str:
    """The text of `--help`: every setting with its default and its line of documentation."""
    lines = [f"usage: torchrun --nproc-per-node N {program} {arguments}"]
    group = None
    for key, field, owner, default in _with_defaults(cls):
        if (key.rpartition(".")[0], owner) != group:
            group = key.rpartition(".")[0], owner
            lines += ["", _sentence(owner.__doc__)]
        lines.append(f"  {key}={'(required)' if default is PydanticUndefined else _show(default)}")
        lines += textwrap.wrap(_sentence(field.description), 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def walk(cls: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[Settings]]]:
    """Every setting under `cls` as (dotted key, field, class that has it): its own first, then those of its groups.

    Where a setting is a choice of classes, the settings of each follow one another.
    """
    groups = {name: _groups(field.annotation) for name, field in cls.model_fields.items()}
    yield from ((prefix + name, field, cls) for name, field in cls.model_fields.items() if not groups[name])
    for name, classes in groups.items():
        for group in classes:
            yield from walk(group, f"{prefix}{name}.")


def _with_defaults(
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
        if not groups[name]:
            yield prefix + name, field, cls, defaults[name]
    for name, classes in groups.items():
        for group in classes:
            yield from _with_defaults(group, f"{prefix}{name}.", defaults[name])


def _groups(annotation: Any) -> list[type[Settings]]:
    """The settings classes in an annotation: the class itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [group for part in typing.get_args(annotation) for group in _groups(part)]
    return []


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _show(default: Any) -> str:
    plain = TypeAdapter(Any).dump_python(default, mode="json")
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).split("\n")[0]


class _Loader(yaml.SafeLoader):
    """YAML 1.2: `1e-4` is a number, and `off` is a word."""


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"), list("-+.0123456789"))


def _parse(argument: str, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise UserError(f"cannot read the value of {argument!r}; quote it as YAML") from None


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(cls: type[Settings], fault: Any) -> str:
    key, valid = _locate(cls, [str(part) for part in fault["loc"]])
    if fault["type"] == "extra_forbidden":
        choices = {*valid, *(parent for other in valid for parent in _parents(other))}
        return f"{key}: no such setting; the nearest is {max(sorted(choices), key=lambda other: _likeness(key, other))}"
    message = fault["msg"].removeprefix("Value error, ")
    found = "" if isinstance(fault["input"], dict) else f", found {fault['input']!r}"[:200]
    return f"{key}: {message}{found}" if key else message


def _parents(key: str) -> list[str]:
    """`a.b.c` is in the groups `a` and `a.b`."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _locate(cls: type[Settings], location: list[str]) -> tuple[str, list[str]]:
    """The key that the user wrote, and the keys that were valid there.

    Where a setting is a choice of classes, the location also names the class chosen: it is no part of the key, and the
    keys of the other classes are not valid.
    """
    parts: list[str] = []
    groups, valid = [cls], [key for key, _, _ in walk(cls)]
    for part in location:
        chosen = [group for group in groups if len(groups) > 1 and part in (group.__name__, _tag(group))]
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


def _likeness(key: str, other: str) -> float:
    names = key.rpartition(".")[2], other.rpartition(".")[2]
    return difflib.SequenceMatcher(None, key, other).ratio() + difflib.SequenceMatcher(None, *names).ratio()


def run_program(main: Any) -> None:
    """Run `main(arguments)` and end the process; a UserError is printed as a sentence, without a traceback, with exit status 2.

    Where nobody reads its output any more (`| head`), it ends without a word, with the status that SIGPIPE gives other programs.
    The process ends without the interpreter's finalization, in which the threads of process groups that are still referenced
    may ask for the interpreter and abort the process, although the work is done.
    """
    status = 0
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _tell_torchrun(f"error: {error}")
        status = 2
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        status = 128 + signal.SIGPIPE
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _tell_torchrun(message: str) -> None:
    """What torchrun prints last, in place of a hint at how to make it show more."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        about = {"py_callstack": message, "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": about}}))


def _nobody_reads() -> bool:
    """Whether the reader of the pipe that the output goes to has left."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
