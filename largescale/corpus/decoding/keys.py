"""How the images of a corpus are called, whatever their files are called."""

import os
import re

from largescale.corpus.decoding.pixels import FORMATS

SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}


def key_of_name(name: str) -> str:
    """The key of an image by its name, as different editions have it: with folders, with or without a suffix, with dots."""
    base = re.split(r"[/\\]", name)[-1]
    stem, suffix = os.path.splitext(base)
    return (stem if suffix.lower() in SUFFIXES else base).replace(".", "_")
