"""The layouts that are known, and which of them a source has."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from largescale.names import is_component
from largescale.program.plugins import imported
from largescale.settings import UserError

from .sources import Item, Skipped, Source
from .sources.benchmarks.gldv2 import GoogleLandmarks
from .sources.benchmarks.holidays import InriaHolidays
from .sources.benchmarks.ilias import Ilias
from .sources.benchmarks.revisitop1m import RevisitedDistractors
from .sources.benchmarks.ukbench import UKBench
from .sources.files import readable
from .sources.folder import ClassFolders, SplitFolders, Unlabeled
from .sources.img2dataset import Img2Dataset
from .sources.labeled.cars import Cars
from .sources.labeled.cifar import CifarBatches
from .sources.labeled.cub import Cub
from .sources.labeled.food101 import Food101
from .sources.labeled.inat import INaturalist
from .sources.labeled.inshop import InShop
from .sources.labeled.sop import Products
from .sources.labeled.svhn import StreetNumbers
from .sources.labeled.tiny_imagenet import TinyImageNet
from .sources.landmarks import OxfordParis
from .sources.layout import Layout, Request
from .sources.reconstructions.colmap import Colmap
from .sources.reconstructions.sfm import RetrievalSfm
from .sources.tables.pictures import Tables
from .sources.tables.table import Lists

KNOWN: Sequence[type[Layout]] = (
    Tables, Lists, SplitFolders, ClassFolders, Unlabeled, Img2Dataset,
    Cub, Products, Cars, InShop, INaturalist, Food101, StreetNumbers, TinyImageNet, CifarBatches,
    RetrievalSfm, Colmap,
    OxfordParis, InriaHolidays, UKBench, GoogleLandmarks, Ilias, RevisitedDistractors,
)  # fmt: skip
LAYOUTS: Mapping[str, Layout] = {kind.name: kind() for kind in KNOWN}


class Recognized(NamedTuple):
    layout: Layout
    by: str
    """What in the source shows it."""


def find_layout(name: str) -> Layout:
    """A layout by its name, or one of the user's own by its import path `mypackage.module:MyLayout`.

    Raises:
        UserError: no such layout.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    if ":" not in name:
        raise UserError(f"there is no layout {name!r}; known are {', '.join(LAYOUTS)}, or package.module:Class of your own")
    found = imported(name, "layout ")
    if not (isinstance(found, type) and issubclass(found, Layout)):
        raise UserError(f"layout {name}: expected a class derived from shards.sources.layout.Layout, found {found!r:.80}")
    return found()


def recognize(source: Path) -> list[Recognized]:
    """The layouts that a source may have: first those that few collections have, the others in the order of `KNOWN`."""
    found = [Recognized(layout, by) for layout in LAYOUTS.values() if (by := layout.recognize(source))]
    return sorted(found, key=lambda one: one.layout.generic)


def choose(source: Path) -> Recognized:
    """The one layout of a source.

    Raises:
        UserError: none is recognized, or several data sets.
    """
    found = recognize(source)
    best = [one for one in found if not one.layout.generic] or found[:1]
    if len(best) == 1:
        return best[0]
    if not source.exists():
        raise UserError(f"there is no {source}")
    some = "; ".join(f"{one.layout.name} (by {one.by})" for one in best) or "none of those that are known"
    raise UserError(f"{source}: expected one layout, recognized {some}; give --layout: {', '.join(LAYOUTS)}")


def others(source: Path, chosen: Layout) -> list[Recognized]:
    """Layouts that a source might be mistaken for, or that fit better than the chosen one."""
    return [one for one in recognize(source) if one.layout.name != chosen.name]


def counted(request: Request, layout: Layout) -> str:
    """What would come out under a layout: `1,200 images, 12 labels`."""
    try:
        with readable(request.source):
            sources = layout.read(replace(request, split=None)).values()
            found = [item for source in sources for item in source.items() if not isinstance(item, Skipped)]
    except UserError as error:
        return f"an error ({str(error).splitlines()[0]:.100})"
    labels = {item.label for item in found if isinstance(item, Item) and item.label is not None}
    return f"{len(found):,} images, {len(labels):,} labels"


def corpora(request: Request, layout: Layout) -> Mapping[str, Source]:
    """The corpora that are wanted, by name; `""` for one that is written into OUT itself.

    Raises:
        UserError: there is no such split, or nothing.
    """
    with readable(request.source):
        found = layout.read(request)
    if strange := [name for name in found if name and not is_component(name)]:
        raise UserError(f"{request.source} has a split named {strange[0]!r:.80}, which cannot be the name of a folder; rename it")
    if request.split is None:
        return {"": next(iter(found.values()))} if len(found) == 1 else found
    if request.split not in found:
        raise UserError(f"{request.source} has no split {request.split!r} under layout {layout.name}; it has: {', '.join(found)}")
    return {"": found[request.split]}


def table() -> str:
    """The layouts as a table in Markdown."""
    rows = [f"| `{layout.name}` | {layout.about} | {layout.corpora} |" for layout in LAYOUTS.values()]
    return "\n".join(["| layout | what stands there | corpora |", "|---|---|---|", *rows])
