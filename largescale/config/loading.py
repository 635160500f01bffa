"""Run configurations from a YAML file and `key=value` arguments: checked and written down.

Needs no torch, so that `--help` and a misspelt key answer at once.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from largescale.config.keys import locate, nearest
from largescale.names import without_secrets
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
            _merge(values, _nested(key, parse_value(argument, text)))
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


class _Loader(yaml.SafeLoader):
    """YAML 1.2: `1e-4` is a number, and `off` is a word."""


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"), list("-+.0123456789"))


def parse_value(argument: str, text: str) -> Any:
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
    key, valid = locate(cls, [str(part) for part in fault["loc"]])
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {key!r}; did you mean {', '.join(nearest(key, valid))}?"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in ("tuple_type", "list_type"):
        message = "expected a list, as in [a, b]"
    found = "" if isinstance(fault["input"], dict) else without_secrets(f", found {fault['input']!r}"[:200])
    return f"{key}: {message}{found}" if key else message
