"""Which corpus a run without `corpus=` reads: the one under data/, else the embedded demo corpus."""

import logging
import subprocess
from pathlib import Path

from largescale.locks import locked
from largescale.program.cli import command
from largescale.settings import UserError

log = logging.getLogger(__name__)

DEMO = Path("data/demo")


def only_corpus() -> str | None:
    """The only corpus under data/; None where there is none.

    Raises:
        UserError: there are several.
    """
    found = sorted(path.parent for path in Path("data").glob("*/manifest.json"))
    if len(found) > 1:
        raise UserError(f"data/ holds several corpora ({', '.join(map(str, found))}): say which one, corpus={found[0]}")
    return str(found[0]) if found else None


def default_corpus() -> str:
    """The only corpus under data/; the demo corpus, made where it is missing, when there is no other.

    One process of each node makes it; those that come later wait for it.

    Raises:
        UserError: there are several corpora.
    """
    found = only_corpus()
    if found is not None:
        return found
    with locked(DEMO / "lock"):
        if not (DEMO / "train" / "manifest.json").exists():
            log.info("there is no corpus under data/: making the demo corpora in %s, once", DEMO)
            subprocess.run([*command("shards"), "demo", str(DEMO)], check=True)
    return str(DEMO / "train")
