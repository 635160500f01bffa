"""The text of `--help`: a page with the settings that most people change, and the rest group by group."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from largescale.config.keys import nearest, with_defaults
from largescale.settings import Settings, UserError

WIDTH = 110
HELP = ("--help", "-h")


class _Line(NamedTuple):
    key: str
    default: str
    about: str
    owner: type[Settings]

    @property
    def group(self) -> str:
        return self.key.rpartition(".")[0]


def asked(arguments: Sequence[str]) -> str | None:
    """The group whose help is asked for; `""` for the page, None where no help is asked for."""
    place = next((place for place, argument in enumerate(arguments) if argument in HELP), None)
    if place is None:
        return None
    rest = arguments[place + 1 :]
    return rest[0] if rest and "=" not in rest[0] else ""


def chosen(arguments: Sequence[str], verbs: Mapping[str, type[Settings]], about: str | None, what: str) -> str | None:
    """The first argument of a program of several verbs; None where it asks for the list of them, which is printed then.

    Args:
        about: what the program says of itself, above the list.
        what: its verbs are, for the error.

    Raises:
        UserError: there is no such verb.
    """
    name = arguments[0] if arguments else "--help"
    if name in HELP:
        width = max(map(len, verbs)) + 2
        print(about, *(f"  {known:{width}}{_sentence(cls.__doc__)}" for known, cls in verbs.items()), sep="\n")
        return None
    if name not in verbs:
        raise UserError(f"there is no {what} {name!r}; did you mean {nearest(name, verbs)[0]}? known are {', '.join(verbs)}")
    return name


def explain(cls: type[Settings], usage: str, common: Sequence[str], group: str) -> str:
    """What `--help GROUP` prints.

    Args:
        usage: how the program is called.
        common: keys of the settings that most people change.
        group: `""` for the page with these and the list of groups, `all` for every setting.

    Raises:
        UserError: there is no such group.
    """
    lines = _lines(cls)
    if not group:
        return _page(cls, lines, usage, common)
    shown = [line for line in lines if group == "all" or line.group == group or line.group.startswith(f"{group}.")]
    if not shown:
        groups = sorted({line.group for line in lines if line.group})
        meant, known = ", ".join(nearest(group, groups)), ", ".join(groups)
        raise UserError(f"there is no group {group!r}; did you mean {meant}? known are {known}")
    return f"usage: {usage}\n{_whole(shown)}"


def _lines(cls: type[Settings]) -> list[_Line]:
    return [
        _Line(key, "(required)" if default is PydanticUndefined else _show(default), _sentence(field.description), owner)
        for key, field, owner, default in with_defaults(cls)
    ]


def _page(cls: type[Settings], lines: list[_Line], usage: str, common: Sequence[str]) -> str:
    chosen = [_choice([line for line in lines if line.key == key]) for key in common]
    width = max(len(f"{line.key}={line.default}") for line in chosen)
    text = [f"usage: {usage}", "", _sentence(cls.__doc__), "", "settings that most people change, with their defaults:"]
    text += [f"  {f'{line.key}={line.default}':{width}}  {_short(line.about, WIDTH - width - 4)}" for line in chosen]
    groups: dict[str, str] = {}
    for line in lines:
        groups.setdefault(line.group.partition(".")[0], _sentence(line.owner.__doc__))
    groups = {name: about for name, about in groups.items() if name}
    widest = max(map(len, groups), default=0)
    text += ["", "groups (--help GROUP explains one, --help all every setting):"] if groups else ["", "--help all: every setting"]
    return "\n".join(text + [f"  {name:{widest}}  {_short(about, WIDTH - widest - 4)}" for name, about in groups.items()])


def _choice(lines: list[_Line]) -> _Line:
    """One line for a setting; where it chooses a class, with the names of all classes."""
    names = ", ".join(line.default for line in lines)
    return lines[0] if len(lines) == 1 else lines[0]._replace(about=f"One of {names}")


def _whole(lines: list[_Line]) -> str:
    text: list[str] = []
    group = None
    for line in lines:
        if (line.group, line.owner) != group:
            group = line.group, line.owner
            text += ["", _sentence(line.owner.__doc__)]
        text.append(f"  {line.key}={line.default}")
        text += textwrap.wrap(line.about, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(text)


def _short(text: str, width: int) -> str:
    """Its first sentence, or clause, as far as there is room."""
    first = text.split(". ")[0].rstrip(".")
    return first if len(first) <= width else textwrap.shorten(first, width, placeholder=" …")


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _show(default: Any) -> str:
    plain = TypeAdapter(Any).dump_python(default, mode="json")
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).split("\n")[0]
