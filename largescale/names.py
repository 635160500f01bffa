"""The one door for names from elsewhere: of runs, of files that a manifest or a server names, of places that are read.

What becomes a part of a path passes here first: a name is one plain component, so that no file, server or typing error can
lead out of the folder that it is used in. What is written down or printed passes here too: a place holds no secrets.
"""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from largescale.settings import UserError

LONGEST = 200
"""Bytes of a component: file systems end at 255, and temporary names are longer."""


def is_component(name: str) -> bool:
    """Whether it is one component of a path that stays in its folder and is not hidden."""
    strange = name.startswith(".") or not name.isprintable() or set(name) & {"/", "\\"}
    return bool(name) and not strange and len(name.encode()) <= LONGEST


def component(name: str) -> str:
    """The name, where it is one component of a path that stays in its folder and is not hidden.

    Raises:
        ValueError: it climbs, is absolute, has several components, begins with a dot, or cannot be a file name.
    """
    if not is_component(name):
        raise ValueError(f"{name!r:.80} is no plain name of a file: it could lead out of its folder")
    return name


def run_name(name: str) -> str:
    """The name of a folder that a program of ours makes.

    Raises:
        ValueError: it is not made of letters, digits, -, _ and dots inside.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name) or len(name.encode()) > LONGEST:
        raise ValueError("a name is one plain folder name: letters, digits, - and _, and dots that do not come first")
    return name


def location(place: str) -> str:
    """A folder or URL, without secrets: what is read is written into config.yaml, results and logs.

    Raises:
        ValueError: the URL has a user, a password or a query, which is not repeated.
    """
    if "://" not in place:
        return place
    parts = urlsplit(place)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"{without_secrets(place)}: a URL with a user, a password or a ?query would be written into config.yaml and logs; "
            "leave them out, and put the password into ~/.netrc (http) or where the storage's own tools keep it (s3, gs)"
        )
    return place


def without_secrets(text: str) -> str:
    """The text with users, passwords and queries of URLs struck out."""
    users = re.sub(r"(?<=://)[^/\s'\"]*@", "…@", text)
    return re.sub(r"(://[^\s'\"?#]*[?#])[^\s'\"]+", r"\1…", users)


Component = Annotated[str, AfterValidator(component)]
RunName = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(run_name)]
Location = Annotated[str, AfterValidator(location)]
Locations = Annotated[tuple[Location, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One may be given by itself."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def require_location(place: str) -> str:
    """As `location`, for programs.

    Raises:
        UserError: in place of its ValueError.
    """
    try:
        return location(place)
    except ValueError as error:
        raise UserError(str(error)) from None
