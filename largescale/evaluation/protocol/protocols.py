"""Named, versioned, frozen rules of a benchmark: which rows are positive or junk, the query's own image, crop, metrics.

The name and the hash of a protocol travel with every score. Whoever changes a rule raises its version.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from largescale.settings import UserError

MEASURED_AT = (1, 5, 10)
RECALL_AT = (1, 2, 4, 8, 10, 16, 32, 100, 1000)


@dataclass(frozen=True)
class Protocol:
    """How a score is computed from rankings."""

    name: str
    positive: tuple[str, ...]
    """Lists of the ground truth whose images are right."""
    junk: tuple[str, ...]
    """Lists whose images are neither right nor wrong: the ranking is read as if they were not there."""
    own_image: str
    """What happens to the image that the query was taken from."""
    crop: str
    """Which part of the query's image is described."""
    metrics: tuple[str, ...]
    """By the names of `metrics`; the first stands for the protocol."""
    version: int = 2
    ties: str = "the wrong rows come first"
    """What happens among rows of equal similarity: the order of rows says nothing, and the expectation of a metric over all
    orders is at least what it is under the worst."""

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def main(self) -> str:
        return self.metrics[0]

    @property
    def rules(self) -> str:
        """The protocol in one sentence."""
        right, junk = " and ".join(self.positive), " and ".join(self.junk) or "nothing"
        own = f"the query's own image {self.own_image}"
        rules = f"right: {right}; left out of the ranking: {junk}; {own}; the query is {self.crop}"
        return f"{rules}; among equal similarities {self.ties}; scored by {self.main}"


_LANDMARK = ("map_trapezoid", *(f"precision_at_{k}_cut" for k in MEASURED_AT), "recall_at_1")
_CLASSIC = Protocol("", ("good", "ok"), ("junk",), "stays in the gallery and is right", "", _LANDMARK)
_REVISITED = replace(_CLASSIC, own_image="is not in the gallery")
_LEVELS = {
    "easy": replace(_REVISITED, positive=("easy",), junk=("junk", "hard")),
    "medium": replace(_REVISITED, positive=("easy", "hard"), junk=("junk",)),
    "hard": replace(_REVISITED, positive=("hard",), junk=("junk", "easy")),
}
_DEEP = Protocol("", (), (), "is not in the gallery", "the whole image", ("map_rectangle", "recall_at_1", "recall_at_100"))
_FAMILIES: dict[str, dict[str, Protocol]] = {
    "oxford5k": {"": _CLASSIC},
    "paris6k": {"": _CLASSIC},
    "roxford5k": _LEVELS,
    "rparis6k": _LEVELS,
    "holidays": {"": replace(_CLASSIC, own_image="is left out of the ranking", crop="the whole image")},
    "holidays-upright": {"": replace(_CLASSIC, own_image="is left out of the ranking", crop="the whole image, turned upright")},
    "gldv2": {
        level: replace(_DEEP, positive=(level,), metrics=("map_at_100", *_DEEP.metrics)) for level in ("public", "private")
    },
    "ilias": {"": replace(_DEEP, positive=("good",), metrics=("map_at_1000", *_DEEP.metrics))},
}
FAMILIES = tuple(_FAMILIES)
_PUBLISHED = {
    "oxford5k": (5063,),
    "paris6k": (6392,),
    "roxford5k": (4993, 5063),
    "rparis6k": (6322, 6392),
    "holidays": (1491,),
    "inshop": (12612,),
}
"""Images of a benchmark's gallery; of the revisited ones, also with the queries that are stored beside it."""


def incomplete(protocol: str, images: int) -> str | None:
    """`4,961 of 5,063 images` where a gallery has not as many as its benchmark; None where it has, or nobody knows."""
    published = _PUBLISHED.get(protocol.partition("-")[0])
    return None if published is None or images in published else f"{images:,} of {published[0]:,} images"


_LABELS = Protocol(
    "labels-query-gallery",
    ("same label",),
    (),
    "is not in the gallery",
    "the whole image",
    ("map_rectangle", "map_at_r", *(f"recall_at_{k}" for k in RECALL_AT), "precision_at_20", "precision_at_100"),
    version=3,
)
LABELS = _LABELS
LEAVE_ONE_OUT = replace(_LABELS, name="labels-leave-one-out", junk=("own image",), own_image="is left out by its id")
WITHIN_GALLERY = replace(LEAVE_ONE_OUT, name="labels-query-within-gallery", own_image="is left out by its key")
INSHOP = replace(
    _LABELS, name="inshop", metrics=("recall_at_1", "recall_at_10", "recall_at_20", "recall_at_30", "map_rectangle", "map_at_r")
)
"""In-Shop Clothes Retrieval (Liu 2016): 14,218 queries of 3,985 items, whose other views are the gallery."""
UKBENCH = replace(
    _LABELS,
    name="ukbench",
    positive=("same label", "own image"),
    own_image="stays in the gallery and is right",
    metrics=("ns", "map_rectangle", "precision_at_4"),
)


def landmark_protocols(family: str, crop: bool) -> Sequence[Protocol]:
    """The protocols of a published ground truth; where it has query boxes, whether they are cut out is part of the name."""
    if family not in _FAMILIES:
        raise UserError(f"the ground truth is for protocol {family!r}; known are {', '.join(FAMILIES)}")
    if not family.startswith(("oxford", "paris", "roxford", "rparis")):
        return [replace(rules, name="-".join(filter(None, (family, level)))) for level, rules in _FAMILIES[family].items()]
    what, region = ("crop", "cropped to its box before it is resized") if crop else ("nocrop", "the whole image")
    return [
        replace(rules, name="-".join(filter(None, (family, level, what))), crop=region)
        for level, rules in _FAMILIES[family].items()
    ]
