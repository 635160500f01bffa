"""A query and what it found as one picture, for tables that hold a picture per row."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from largescale.evaluation.report.pictures import RankedPictures, of_neighbor, of_query, thumbnail
from largescale.evaluation.results import QueryRecord

SIDE, FRAME, SHOWN = 96, 4, 10
COLOURS = {"right": "#2a9d55", "wrong": "#d1495b", "distractor": "#e09f1f", "junk": "#999999", "self": "#999999"}


def strip(record: QueryRecord, pictures: RankedPictures) -> np.ndarray:
    """`(SIDE, (1 + SHOWN) * SIDE, 3)` uint8: the query, then what was found, framed by the color of its mark."""
    shown = [neighbor for neighbor in record.top if neighbor.mark != "self"][:SHOWN]
    canvas = Image.new("RGB", (SIDE * (1 + SHOWN), SIDE), "white")
    for place, (folder, id) in enumerate([of_query(record), *map(of_neighbor, shown)]):
        (encoded,) = pictures.corpus(folder).read([id])
        picture = ImageOps.contain(Image.open(io.BytesIO(thumbnail(encoded))), (SIDE - 2 * FRAME, SIDE - 2 * FRAME))
        canvas.paste(picture, (place * SIDE + FRAME, FRAME))
    draw = ImageDraw.Draw(canvas)
    for place, neighbor in enumerate(shown, start=1):
        draw.rectangle([place * SIDE, 0, (place + 1) * SIDE - 1, SIDE - 1], outline=COLOURS[neighbor.mark], width=FRAME)
    return np.asarray(canvas)
