"""A query and what it found as one picture, for tables that hold a picture per row."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from largescale.evaluation.report.pictures import RankedPictures, of_neighbor, of_query, thumbnail
from largescale.evaluation.results import QueryRecord

SIDE, FRAME, SHOWN = 96, 4, 10
COLOURS = {"right": "#2a9d55", "wrong": "#d1495b", "distractor": "#e09f1f", "junk": "#999999", "self": "#999999"}


def strip(record: QueryRecord, pictures: RankedPictures) -> np.ndarray:
    """`(SIDE, (1 + SHOWN) * SIDE, 3)` uint8: the query, then what was found, framed by the color of its mark."""
    shown = [neighbor for neighbor in record.top if neighbor.mark != "self"][:SHOWN]
    found = []
    for folder, id in [of_query(record), *map(of_neighbor, shown)]:
        (encoded,) = pictures.corpus(folder).read([id])
        found.append(Image.open(io.BytesIO(thumbnail(encoded))))
    return framed(found, [neighbor.mark for neighbor in shown], 1 + SHOWN)


def framed(pictures: Sequence[Image.Image], marks: Sequence[str], places: int) -> np.ndarray:
    """`(SIDE, places * SIDE, 3)` uint8: pictures side by side, all but the first framed by the color of its mark."""
    canvas = Image.new("RGB", (SIDE * places, SIDE), "white")
    for place, picture in enumerate(pictures):
        canvas.paste(ImageOps.contain(picture, (SIDE - 2 * FRAME, SIDE - 2 * FRAME)), (place * SIDE + FRAME, FRAME))
    draw = ImageDraw.Draw(canvas)
    for place, mark in enumerate(marks, start=1):
        draw.rectangle([place * SIDE, 0, (place + 1) * SIDE - 1, SIDE - 1], outline=COLOURS[mark], width=FRAME)
    return np.asarray(canvas)
