"""Lists in text files as people have them: their encoding, what separates columns, and whether quotation marks quote."""

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from largescale.settings import UserError

from ..files import IMAGE_SUFFIXES
from .columns import names_path

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
SEPARATORS = "\t,;|"
BLANKS = " "
SUFFIXES = "|".join(suffix[1:] for suffix in sorted(IMAGE_SUFFIXES, reverse=True))
PATH = rf'"(?P<quoted>[^"]+)"|(?P<path>[^"].*?\.(?:{SUFFIXES})|\S+)'
PATH_AND_REST = re.compile(rf'(?:{PATH})(?:\s+(?:"(?P<label>[^"]+)"(?:\s.*)?|(?P<rest>.*)))?', re.IGNORECASE)
"""A line that blanks separate: both parts may have blanks inside, with or without quotation marks."""
csv.field_size_limit(1 << 24)


class Dialect(NamedTuple):
    """How a list is written."""

    encoding: str
    separator: str
    quoted: bool
    """A quotation mark at the beginning of a field ends with the next one; else it is a character like any other."""

    @property
    def described(self) -> str:
        separator = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", BLANKS: "blanks"}[self.separator]
        return f"{self.encoding}, columns separated by {separator}{', quoted' if self.quoted else ''}"


def find_dialect(path: Path) -> Dialect:
    """How the list is written, from all of it.

    Raises:
        UserError: there is no list, or it is empty.
    """
    if not path.is_file():
        raise UserError(f"there is no list {path}")
    encoding = encoding_of(path)
    with path.open(encoding=encoding, newline="") as file:
        first = next((line for line in file if line.strip()), None)
        if first is None:
            raise UserError(f"the list {path} is empty")
        separator = _separator(first.rstrip("\r\n"))
        quoted = separator != BLANKS and ('"' in first or any('"' in line for line in file))
    return Dialect(encoding, separator, quoted and _quotes(path, encoding, separator))


def rows(path: Path, dialect: Dialect, columns: int | None) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not blank.

    Args:
        columns: how many a header names. Without one, what blanks separate is a path and the rest of the line.

    Raises:
        UserError: a line has more fields than the header, or than the first line.
    """
    with path.open(encoding=dialect.encoding, newline="") as file:
        for number, cells in _split(file, dialect, columns is not None):
            columns = columns or len(cells)
            if len(cells) > columns and dialect.separator != BLANKS:
                raise UserError(
                    f"{path}:{number}: {len(cells)} fields where the first line has {columns}: "
                    f"{dialect.separator.join(cells)!r:.80}; put a field with {dialect.separator!r} inside into quotation marks"
                )
            yield number, [*cells[: columns - 1], BLANKS.join(cells[columns - 1 :])] if len(cells) > columns else cells


def _split(file: Iterator[str], dialect: Dialect, has_header: bool) -> Iterator[tuple[int, list[str]]]:
    if dialect.separator != BLANKS:
        reader = csv.reader(file, delimiter=dialect.separator, **_options(dialect.quoted))
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
        return
    for number, line in enumerate(file, 1):
        if has_header and line.strip():
            yield number, line.split()
        elif found := PATH_AND_REST.fullmatch(line.strip()):
            yield number, [found["quoted"] or found["path"], found["label"] or found["rest"] or ""]


def _options(quoted: bool) -> dict:
    quoting = {"quoting": csv.QUOTE_MINIMAL, "strict": True} if quoted else {"quoting": csv.QUOTE_NONE}
    return {"skipinitialspace": True, **quoting}


def encoding_of(path: Path) -> str:
    """By its mark; UTF-8 where all bytes are; UTF-16 where there are zeros between letters; else what Windows writes.

    Raises:
        UserError: it is no text.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
    if marked:
        return marked
    if b"\0" in start:
        low, high = (start[side::2].count(0) for side in (1, 0))
        if 8 * max(low, high) < len(start):
            raise UserError(f"{path} is no text: it has zero bytes inside; expected a list, or a Parquet file called .parquet")
        return "utf-16-le" if low > high else "utf-16-be"
    try:
        with path.open(encoding="utf-8") as file:
            while file.read(1 << 20):
                pass
        return "utf-8"
    except UnicodeDecodeError:
        return "cp1252" if not set(path.read_bytes()) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1"


def _separator(line: str) -> str:
    """What makes of the first line a field that is an image, or the name of a column of paths."""
    for separator in SEPARATORS:
        cells = [cell.strip(' "') for cell in line.split(separator)]
        if len(cells) > 1 and (names_path(cells) or any(_like_image(cell) for cell in cells)):
            return separator
    return next((separator for separator in SEPARATORS if separator in line and not _like_image(line.split()[0])), BLANKS)


def _like_image(cell: str) -> bool:
    return any(cell.lower().endswith(suffix) for suffix in IMAGE_SUFFIXES)


def _quotes(path: Path, encoding: str, separator: str) -> bool:
    """Whether quotation marks come in pairs around fields, and every line has as many fields as the first."""
    with path.open(encoding=encoding, newline="") as file:
        try:
            widths = [len(cells) for cells in csv.reader(file, delimiter=separator, **_options(True)) if cells]
        except csv.Error:
            return False
    return max(widths) == widths[0]
