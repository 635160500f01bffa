"""Which column of a table holds what, and what a cell says."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from largescale.settings import UserError

from .. import Box

PATHS = (
    "path", "filepath", "file_path", "filename", "file_name", "file",
    "image_path", "img_path", "image_file", "image_name", "image", "img", "image_id",
)  # fmt: skip
LABELS = (
    "label", "labels", "label_name", "class", "class_name", "class_id", "target",
    "landmark_id", "item_id", "product_id", "species", "category",
)  # fmt: skip
"""Names of columns, the first that is there counts; capitals and blanks do not."""
SIDES = ("x_1", "y_1", "x_2", "y_2")
MISSING = {"", "nan", "n/a", "<na>", "null", "none", "-1", "-1.0"}
"""Labels that are none: images that have nothing in common would be one class."""
TRUE = {"true", "1", "1.0", "yes", "t", "y"}


class Columns(NamedTuple):
    """Numbers of columns; None where there is none."""

    path: int
    label: int | None = None
    split: int | None = None
    is_query: int | None = None
    is_gallery: int | None = None
    category: int | None = None
    group: int | None = None
    box: tuple[int, ...] | None = None

    def described(self, names: Sequence[str] | None) -> str:
        """`path 'filename', label 'class'; 2 more are not read`."""
        used = {name: value for name, value in self._asdict().items() if isinstance(value, int)}
        what = [f"{name} {names[n]!r}" if names else f"{name} number {n + 1}" for name, n in used.items()]
        return ", ".join(
            [*what, *(["box x_1, y_1, x_2, y_2"] if self.box else []), *([] if self.label is not None else ["no label"])]
        )


class TableRow(NamedTuple):
    """A row of a table."""

    path: str
    label: str | None
    split: str | None
    is_query: bool
    is_gallery: bool
    group: str | None
    box: Box | None


def plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def names_path(cells: Sequence[str]) -> bool:
    return any(plain(cell) in PATHS for cell in cells)


def find_columns(names: Sequence[str], where: object, path_field: str | None, label_field: str | None) -> Columns:
    """The columns of a table by the names in its header.

    Raises:
        UserError: no column is known to hold paths, or one that was asked for is not there.
    """
    known = {plain(name): number for number, name in reversed(list(enumerate(names)))}

    def find(asked: str | None, candidates: Sequence[str], option: str) -> int | None:
        if asked is not None and plain(asked) not in known:
            raise UserError(f"{where} has no column {asked!r}; it has: {', '.join(names)}; give another {option}")
        return known.get(plain(asked)) if asked is not None else next((known[name] for name in candidates if name in known), None)

    path = find(path_field, PATHS, "--path-field")
    label = find(label_field, LABELS, "--label-field")
    if path is None:
        raise UserError(f"no column of {where} is known to hold paths; it has: {', '.join(names)}; give --path-field COLUMN")
    if label is None and len(known.keys() - {"", "split", "group", *SIDES, "is_query", "is_gallery"}) > 1:
        raise UserError(
            f"no column of {where} is known to hold labels; it has: {', '.join(names)}; give --label-field COLUMN, or "
            "leave only the paths in it where there are none"
        )
    box = tuple(known[side] for side in SIDES) if all(side in known for side in SIDES) else None
    category = known.get("category")
    rest = {name: known.get(name) for name in ("split", "is_query", "is_gallery", "group")}
    return Columns(path, label, **rest, category=None if category == label else category, box=box)


def record(cells: Sequence[Any], columns: Columns, where: str) -> TableRow:
    """What a row says."""

    def at(number: int | None) -> Any:
        return cells[number] if number is not None and number < len(cells) else None

    label, category = text(at(columns.label)), text(at(columns.category))
    return TableRow(
        text(at(columns.path)) or "",
        f"{category}/{label}" if label and category else label,
        (text(at(columns.split)) or "").lower() or None,
        str(at(columns.is_query)).strip().lower() in TRUE,
        str(at(columns.is_gallery)).strip().lower() in TRUE,
        text(at(columns.group)),
        _box([at(number) for number in columns.box], where) if columns.box else None,
    )


def text(cell: Any) -> str | None:
    """What a cell says; whole numbers as such, None where it says nothing.

    Raises:
        UserError: it holds several values.
    """
    if isinstance(cell, (list, dict)):
        raise UserError(f"expected a text or a number, found {cell!r:.80}: an image has one label; choose another --label-field")
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    said = "" if cell is None else str(cell).strip()
    return None if said.lower() in MISSING else said


def _box(cells: Sequence[Any], where: str) -> Box | None:
    said = [text(cell) for cell in cells]
    if None in said:
        return None
    try:
        x0, y0, x1, y1 = (float(side or "") for side in said)
    except ValueError:
        raise UserError(f"{where}: the box is {', '.join(map(str, cells))}; expected four numbers") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise UserError(f"{where}: the box {x0}, {y0}, {x1}, {y1} is empty; expected x_1 < x_2 and y_1 < y_2 in pixels")
    return x0, y0, x1, y1
