"""The file that says what an index holds: which segments, which of their rows are removed, by which network they were made.

An index is a folder: `index.json`, and `segments/NUMBER/` with `rows.npy`, `table.arrow`, `keys.npy` and where rows are removed
`removed-NUMBER.npy`; an approximate index also has `trained-NUMBER.faiss`, and `lists-NUMBER.faiss` in each segment. Files are
written once and never changed; a change is a new `index.json`, in one rename, and what it no longer names is deleted after it.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from largescale.commit import read_json, write_json
from largescale.names import component
from largescale.program.cli import called
from largescale.settings import UserError

FORMAT = "largescale index"
VERSION = 3
FILE = "index.json"
Metric = Literal["cosine", "l2"]


@dataclass(frozen=True)
class SegmentEntry:
    """One segment: rows that were added together, or were merged since."""

    name: str
    rows: int
    largest: float
    """Norm of its longest row."""
    files: dict[str, tuple[int, str]]
    """The name of each of its files, its bytes and their XXH3."""
    lists: str | None = None
    """The file of the segment's rows in the FAISS index; None: they are scanned."""
    removed: str | None = None
    """The file with the numbers of the rows that are removed."""
    removed_rows: int = 0

    @property
    def live(self) -> int:
        return self.rows - self.removed_rows


@dataclass(frozen=True)
class Kind:
    """How rows are searched."""

    factory: str = "auto"
    """As the user asked: auto, exact, or a FAISS factory string."""
    memory: int = 2**32
    """auto: bytes of rows up to which search is exact."""
    min_recall: float = 0.95
    """Share of the true neighbors that an approximate index shall find."""
    index: str = "exact"
    """What it came to: exact or a FAISS factory string."""
    search: str = ""
    """FAISS parameters of the search, e.g. nprobe=16."""
    trained: str | None = None
    """The file of the trained, empty FAISS index."""
    trained_facts: tuple[int, str] = (0, "")
    """Its bytes and their XXH3."""
    trained_rows: int = 0
    """Rows that the index had when it was trained."""
    recall: float | None = None
    """Share of the true neighbors that it found then."""


@dataclass(frozen=True)
class IndexManifest:
    """An index at one moment."""

    dim: int
    metric: Metric
    kind: Kind
    model: str | None = None
    """Digest of the network that made the rows; None for rows that came without one."""
    precision: str | None = None
    """In which numbers it computed."""
    location: str | None = None
    """Where that network was."""
    thumbnails: int = 192
    """Longest side of the pictures that are kept to be shown; 0: none."""
    next: int = 0
    """The number of the next file."""
    segments: tuple[SegmentEntry, ...] = field(default=())

    @property
    def rows(self) -> int:
        """Without those that are removed."""
        return sum(entry.live for entry in self.segments)

    @staticmethod
    def read(folder: Path) -> "IndexManifest":
        """
        Raises:
            UserError: no index there, damaged, or of another version.
        """
        path = folder / FILE
        try:
            values = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"there is no index in {folder} ({FILE} is missing); {called('search')} build makes one") from None
        found = values.pop("format", None), values.pop("version", None)
        if found != (FORMAT, VERSION):
            raise UserError(
                f"{path}: expected {FORMAT!r} version {VERSION}, found {found[0]!r} version {found[1]}; build the index again, "
                "or open it with the largescale that made it"
            )
        try:
            segments = tuple(SegmentEntry(**entry) for entry in values.pop("segments"))
            manifest = IndexManifest(kind=Kind(**values.pop("kind")), segments=segments, **values)
            for name in manifest.names():
                list(map(component, name.split("/")))
            for entry in segments:
                if strange := {entry.lists, entry.removed} - {None, *entry.files}:
                    raise ValueError(f"{strange.pop()!r:.80} is no file of segment {entry.name}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} lacks or misspells a value ({error}): it was altered; build the index again") from None
        return manifest

    def commit(self, folder: Path) -> None:
        """From here on this is what the folder holds."""
        write_json(folder / FILE, {"format": FORMAT, "version": VERSION, **asdict(self)})

    def numbered(self) -> tuple[str, "IndexManifest"]:
        """A number that no file of the index has, and what follows it."""
        return f"{self.next:06d}", replace(self, next=self.next + 1)

    def names(self) -> set[str]:
        """The paths, within the folder, of all files and segments that belong to it."""
        trained = {self.kind.trained} if self.kind.trained else set()
        segments = {f"segments/{entry.name}" for entry in self.segments}
        return trained | segments | {f"segments/{entry.name}/{file}" for entry in self.segments for file in entry.files}
