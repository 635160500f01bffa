"""Tars of img2dataset, or of any WebDataset: `NNNNN.tar` with `key.jpg`, `key.json` and `key.txt`.

Tars as people have them: hard and symbolic links are followed inside the archive, what macOS adds is no image, and what is
left out is named with its reason. Of several members with one name the last counts, as for whoever unpacks the archive.
"""

import json
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largescale.cpu import own_cores
from largescale.settings import UserError

from ..workers import pool
from . import Item, Skipped, Source
from .files import IMAGE_SUFFIXES, LARGEST, key_of, not_taken
from .tables.columns import text

PLACE = re.compile(r"(?P<tar>.*?\.tar)/.*@(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
CONTROL, SURROGATE = re.compile(r"[\x00-\x1f\x7f]"), re.compile(r"[\ud800-\udfff]")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LARGEST_SIDECAR = 2**24
Members = dict[str, tarfile.TarInfo]


@dataclass(frozen=True)
class Tars(Source):
    """Every image of every tar below `root`, keyed by tar and name; samples whose download failed have none."""

    root: Path
    label_field: str | None = None
    """The field of `key.json` that is the label; None: no labels."""
    layout: str = "img2dataset"

    @property
    def labeled(self) -> bool:  # type: ignore[override]
        return self.label_field is not None

    def items(self) -> Iterator[Item | Skipped]:
        tars = tar_files(self.root)
        if not tars:
            raise UserError(f"there is no .tar below {self.root}; check SOURCE and --layout")
        with pool(min(len(tars), own_cores())) as processes:
            for items in processes.map(self.index, tars):
                yield from items
        yield from (Skipped(str(path.relative_to(self.root)), "a compressed tar") for path in _compressed(self.root))

    def read(self, place: str) -> bytes:
        found = PLACE.fullmatch(place)
        assert found, place
        with open(self.root / found["tar"], "rb") as file:
            return os.pread(file.fileno(), int(found["size"]), int(found["offset"]))

    def index(self, path: str) -> list[Item | Skipped]:
        """The images of one tar, and what is left out."""
        try:
            with tarfile.open(self.root / path, "r:") as tar:
                found, skipped = _members(tar, path)
                _require_end(tar)
                sidecars = _sidecars(found) if self.label_field else {}
                labels = {name: self._label(f"{path}/{name}", tar, member) for name, member in sidecars.items()}
        except (tarfile.TarError, OSError, OverflowError) as error:
            raise UserError(
                f"{self.root / path} is no tar that can be read to its end ({error}); make it again or remove it"
            ) from None
        taken, beside = _pictures(found, path, set(sidecars))
        return [*(_item(path, name, found[name], labels.get(_sidecar(name, sidecars))) for name in taken), *beside, *skipped]

    def _label(self, place: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
        if member.size > LARGEST_SIDECAR:
            raise UserError(f"{place} has {member.size:,} bytes, which no sidecar of an image has; make the tar again")
        try:
            values = json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is no JSON ({error}), but --label-field {self.label_field} is a field of it") from None
        if not isinstance(values, dict) or self.label_field not in values:
            holds = ", ".join(values) if isinstance(values, dict) else f"a {type(values).__name__}"
            raise UserError(f"{place} has no field {self.label_field!r}; it has: {holds}")
        value = values[self.label_field]
        if isinstance(value, (dict, list)):
            raise UserError(f"{place}: a label is a text or a number, found {value!r:.80}; choose another --label-field")
        return text(value)


def tar_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.tar") if not path.name.startswith("."))


def _compressed(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.name.lower().endswith(COMPRESSED))


def _members(tar: tarfile.TarFile, path: str) -> tuple[Members, list[Skipped]]:
    """The files of a tar by their plain names, links as what they point to; and those that are left out."""
    found, links, skipped = Members(), Members(), list[Skipped]()
    for member in tar:
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name!r} claims a size below zero")
        place = f"{path}/{member.name}"
        if member.isdir() or _is_hidden(member.name):
            continue
        name = _require_plain(path, member.name)
        if SURROGATE.search(name):
            shown = place.encode("utf-8", "backslashreplace").decode()
            skipped.append(Skipped(shown, "its name is not UTF-8"))
        elif member.islnk() or member.issym():
            links[name] = member
        elif not member.isreg() or member.issparse():
            skipped.append(Skipped(place, "a sparse file" if member.issparse() else "no regular file"))
        elif member.size > LARGEST:
            skipped.append(Skipped(place, "larger than 2 GiB"))
        else:
            if name in found:
                skipped.append(Skipped(place, "an earlier version of a file"))
            found[name] = member
            links.pop(name, None)
    for name in links:
        target = _target(name, links, found)
        if target is None:
            skipped.append(Skipped(f"{path}/{name}", "a link to nothing in the archive"))
        else:
            found[name] = target
    return found, skipped


def _target(name: str, links: Members, found: Members) -> tarfile.TarInfo | None:
    """What a link points to, through other links."""
    for _ in range(len(links)):
        link = links[name]
        folder = posixpath.dirname(name) if link.issym() else ""
        to = _plain(posixpath.normpath(posixpath.join(folder, link.linkname)))
        if to is None or (link.issym() and link.linkname.startswith("/")):
            return None
        if to not in links:
            return found.get(to)
        name = to
    return None


def _require_plain(path: str, name: str) -> str:
    """
    Raises:
        UserError: a name that nobody gives to a photograph: it leads elsewhere, or breaks a line.
    """
    plain = _plain(name)
    if plain is None or name.startswith("/") or CONTROL.search(name):
        raise UserError(
            f"{path} has a member named {name!r:.100}, which is absolute, leads out of the archive or breaks a line: "
            "nothing of this archive is taken; make it again from the folder of its images"
        )
    return plain


def _plain(name: str) -> str | None:
    """A member's name below the root of the archive, as tar unpacks it; None for one that leads out of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or not parts else "/".join(parts)


def _is_hidden(name: str) -> bool:
    """As in a folder: names with a leading dot, among them the `._x.jpg` that macOS adds to each file."""
    return any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in name.split("/"))


def _require_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError for an archive that was cut off between two members, or that goes on behind its end."""
    file: Any = tar.fileobj
    file.seek(tar.offset)  # type: ignore[attr-defined]
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("its end mark is missing: it was cut off")
    while block := file.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("there is more behind its end mark, as in tars that were put together by cat")


def _sidecars(found: Members) -> Members:
    return {posixpath.splitext(name)[0] + ".json": member for name, member in found.items() if name.lower().endswith(".json")}


def _sidecar(name: str, sidecars: Any) -> str:
    """The `.json` of an image: that of its whole name, else that of its sample."""
    own = posixpath.splitext(name)[0] + ".json"
    return own if own in sidecars else f"{_sample(name)}.json"


def _pictures(found: Members, path: str, sidecars: set[str]) -> tuple[list[str], list[Skipped]]:
    """The images of a tar. What stands beside the image of a sample, as its mask `key.mask.png`, is left out.

    Raises:
        UserError: several images share a sidecar, and none of them is the image of the sample.
    """
    images = [name for name in found if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    main = {posixpath.splitext(name)[0] for name in images}
    taken, skipped, sharing = list[str](), list[Skipped](), dict[str, str]()
    for name in images:
        sample, stem = _sample(name), posixpath.splitext(name)[0]
        if stem != sample and sample in main and f"{stem}.json" not in sidecars:
            skipped.append(Skipped(f"{path}/{name}", "a second picture of a sample"))
            continue
        if (sidecar := _sidecar(name, sidecars)) in sidecars:
            other = sharing.setdefault(sidecar, name)
            if other != name and sidecar != f"{stem}.json":
                raise UserError(
                    f"{path} has several images of one sample, {other} and {name} beside {sidecar}, and none is called "
                    f"{sample}.jpg: which of them is the photograph? rename it so, or leave the others out"
                )
        taken.append(name)
    others = [name for name in found if name not in set(images) and not name.lower().endswith((".json", ".txt"))]
    return taken, [*skipped, *(not_taken(f"{path}/{name}") for name in others)]


def _item(path: str, name: str, member: tarfile.TarInfo, label: str | None) -> Item:
    key = f"{path.removesuffix('.tar')}/{key_of(name)}"
    return Item(key, label, f"{path}/{name}@{member.offset_data}+{member.size}")


def _sample(name: str) -> str:
    """What WebDataset takes for the key of a member: its name up to the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
