"""Makes a model folder, and files for other runtimes: python launch/export.py MODEL OUT [key=value ...]

MODEL is a model folder, hub:USER/NAME, the folder of a run, a weights file of a run, or a checkpoint of cirtorch or dirtorch.
Without it, the folder is of a backbone that was never trained here: launch/export.py OUT model.backbone=NAME
model.weights=imagenet.
`--help` lists the settings.
"""

from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from largescale.config import asked, explain, load
from largescale.describing.config import ExportConfig
from largescale.program.cli import called
from largescale.program.running import run_program
from largescale.settings import UserError

if TYPE_CHECKING:
    import numpy as np

    from largescale.describing.model import Model
    from largescale.models.sharing.sources import Source

USAGE = f"{called('export')} [MODEL] OUT [key=value ...] [--help [GROUP]]"
CHECKED_ON = 12


def main(arguments: list[str]) -> None:
    if (group := asked(arguments)) is not None:
        print(explain(ExportConfig, USAGE, ("formats", "pictures", "multiscale", "license", "push"), group))
        return
    places = list(takewhile(lambda argument: "=" not in argument, arguments))
    config = load(ExportConfig, arguments[len(places) :])
    if len(places) != (2 if config.model is None else 1):
        raise UserError(
            f"expected a model (MODEL, or model.backbone=NAME) and a folder for what is made of it, found {places or 'neither'}; "
            f"usage: {USAGE}"
        )
    if config.formats and config.pictures is None:
        raise UserError("formats are checked on photographs before they are kept: give pictures=FOLDER, with several sizes in it")
    make(config.model or places[0], Path(places[-1]), config)


def make(source: "Source", out: Path, config: ExportConfig) -> None:
    from largescale.describing.export import export
    from largescale.describing.model import Model
    from largescale.models.sharing.card import card
    from largescale.models.sharing.folder import write_folder
    from largescale.models.sharing.hub import push
    from largescale.models.sharing.sources import open_contents

    contents, digest = open_contents(source, config.multiscale)
    write_folder(out, contents, card(contents, config.license))
    print(f"{out}: {contents.settings.dim} dimensions, {digest}")
    for kind in config.formats:
        found = export(contents, kind, out, pictures(config, Model(contents, digest, "fp32")))
        print(
            f"{found.file}: differs by {found.difference:.1e} at most; {found.seconds * 1000:.1f} ms for a picture, "
            f"torch {found.seconds_of_torch * 1000:.1f} ms"
        )
    if config.push:
        print(push(out, config.push))


def pictures(config: ExportConfig, model: "Model") -> "list[np.ndarray]":
    """Photographs as the network sees them, the ones of different shapes first."""
    import numpy as np

    from largescale.corpus.decoding.pictures import given
    from largescale.corpus.images import target_shapes

    files = sorted(path for path in Path(config.pictures or "").rglob("*") if path.is_file())
    corpus, faults = given(files)
    good = np.array([id for id in range(len(files)) if id not in faults], np.int64)
    if not len(good):
        raise UserError(f"pictures={config.pictures}: there is no photograph in it")
    shapes = target_shapes(corpus.manifest.width[good], corpus.manifest.height[good], model.images)
    new = np.sort(np.unique(shapes, axis=0, return_index=True)[1])
    chosen = good[np.append(new, np.setdiff1d(np.arange(len(good)), new))[:CHECKED_ON]]
    return [model.seen(corpus, id) for id in chosen.tolist()]


if __name__ == "__main__":
    run_program(main)
