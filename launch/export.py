"""Makes a model folder, and files for other runtimes: python launch/export.py MODEL OUT [key=value ...]

MODEL is a model folder, hub:USER/NAME, the folder of a run, a weights file of a run, or a checkpoint of cirtorch or dirtorch.
`--help` lists the settings.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from largescale.config import asked, explain, load, run_program
from largescale.settings import Settings, UserError

if TYPE_CHECKING:
    import numpy as np

    from largescale.model import Model

USAGE = "python launch/export.py MODEL OUT [key=value ...] [--help [GROUP]]"
CHECKED_ON = 12


class ExportConfig(Settings):
    """What is made of a model beside its folder."""

    formats: tuple[Literal["onnx", "program", "torchscript"], ...] = ()
    """onnx: one ONNX file; program: of torch.export; torchscript: for C++. Each is checked against the network first."""
    pictures: str | None = None
    """A folder of photographs of several sizes, to check the formats on."""
    multiscale: bool = False
    """Of a checkpoint of cirtorch or dirtorch: describe at three scales, with the whitening for these."""
    license: str = "other"
    """Of the model card."""
    push: str | None = None
    """USER/NAME on the Hugging Face hub, to which the folder is uploaded."""


def main(arguments: list[str]) -> None:
    if (group := asked(arguments)) is not None:
        print(explain(ExportConfig, USAGE, ("formats", "pictures", "multiscale", "license", "push"), group))
        return
    if len(arguments) < 2 or any("=" in argument for argument in arguments[:2]):
        raise UserError(f"expected a model and a folder for what is made of it; usage: {USAGE}")
    config = load(ExportConfig, arguments[2:])
    if config.formats and config.pictures is None:
        raise UserError("formats are checked on photographs before they are kept: give pictures=FOLDER, with several sizes in it")
    make(arguments[0], Path(arguments[1]), config)


def make(source: str, out: Path, config: ExportConfig) -> None:
    from largescale.export import export
    from largescale.model import Model
    from largescale.models.card import card
    from largescale.models.folder import write_folder
    from largescale.models.hub import push
    from largescale.models.sources import open_contents

    contents, digest = open_contents(source, config.multiscale)
    write_folder(out, contents, card(contents, config.license))
    print(f"{out}: {contents.settings.dim} dimensions, {digest}")
    for kind in config.formats:
        found = export(contents, kind, out, pictures(config, Model(contents, digest)))
        print(
            f"{found.file}: differs by {found.difference:.1e} at most; {found.seconds * 1000:.1f} ms for a picture, "
            f"torch {found.seconds_of_torch * 1000:.1f} ms"
        )
    if config.push:
        print(push(out, config.push))


def pictures(config: ExportConfig, model: "Model") -> "list[np.ndarray]":
    """Photographs as the reader gives them to the network, the ones of different shapes first."""
    import numpy as np

    from largescale.corpus.images import decode_into, target_shape
    from largescale.corpus.pictures import given

    files = sorted(path for path in Path(config.pictures or "").rglob("*") if path.is_file())
    corpus, faults = given(files)
    found = []
    for id in (id for id in range(len(files)) if id not in faults):
        stored = int(corpus.manifest.width[id]), int(corpus.manifest.height[id])
        picture = np.empty((*target_shape(*stored, model.images), 3), np.uint8)
        decode_into(picture, next(corpus.each([id])), model.images, stored)
        found.append(picture)
    if not found:
        raise UserError(f"pictures={config.pictures}: there is no photograph in it")
    new = [number for number, x in enumerate(found) if x.shape not in {y.shape for y in found[:number]}]
    rest = [number for number in range(len(found)) if number not in new]
    return [found[number] for number in (new + rest)[:CHECKED_ON]]


if __name__ == "__main__":
    run_program(main)
