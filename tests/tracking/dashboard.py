"""A picture of the workspace of W&B as a run without network left it: its sections and panels, from the `.wandb` file of the run.

`python -m tests.tracking.dashboard RUN/wandb/offline-run-... docs/images/dashboard.webp`
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

from largescale.commit import read_json
from largescale.tracking.parts import records
from largescale.tracking.workspace import TABLES

COLUMNS, ROW = 3, 2.3
TABLE_ROWS = 3
Series = Mapping[str, list[tuple[float, Any]]]


def history(part: Path) -> Series:
    """(step, value) of each metric."""
    (file,) = part.glob("run-*.wandb")
    found: defaultdict[str, list[tuple[float, Any]]] = defaultdict(list)
    for record in records(file):
        if record.WhichOneof("record_type") != "history":
            continue
        line: dict[str, Any] = {}
        for item in record.history.item:
            name, *inside = item.nested_key or [item.key]
            if inside:  # of a histogram or a table
                line.setdefault(name, {})[inside[0]] = json.loads(item.value_json)
            else:
                line[name] = json.loads(item.value_json)
        for name, value in line.items():
            found[name].append((line.get("step", line.get("_step", 0)), value))
    return found


def draw(part: Path, sections: list[dict[str, Any]]) -> pyplot.Figure:
    """Panels that the run has nothing for are left out, and said so."""
    known = history(part)
    shown = {section["name"]: [p for p in section["panels"] if any(name in known for name in p["shows"])] for section in sections}
    heights = [-(-max(1, len(panels)) // COLUMNS) for panels in shown.values()]
    figure = pyplot.figure(figsize=(13, ROW * sum(heights) + 0.5 * len(heights)), layout="constrained")
    for part_of, (name, panels), height in zip(
        np.atleast_1d(figure.subfigures(len(shown), 1, height_ratios=[h + 0.25 for h in heights])),
        shown.items(),
        heights,
        strict=True,
    ):
        part_of.suptitle(f"{name}" if panels else f"{name}: nothing of this run", x=0.01, ha="left", fontweight="bold")
        for place, panel in enumerate(panels):
            _panel(part_of.add_subplot(height, COLUMNS, place + 1), panel, known, part)
    return figure


def _panel(axes: Axes, panel: dict[str, Any], known: Series, part: Path) -> None:
    axes.set_title(panel["title"], fontsize=9)
    axes.tick_params(labelsize=7)
    for name in filter(known.__contains__, panel["shows"]):
        steps, values = zip(*known[name], strict=True)
        if name.startswith(TABLES):
            _table(axes, name, part)
        elif isinstance(values[-1], dict):
            axes.stairs(values[-1]["values"], values[-1]["bins"], fill=True, alpha=0.7)
        else:
            axes.plot(steps, values, lw=1.2, label=name)
            axes.set_xlabel("step", fontsize=7)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=6, frameon=False)


def _table(axes: Axes, name: str, part: Path) -> None:
    """The pictures of the first rows of a table, one below the other."""
    axes.axis("off")
    pictures = [Image.open(path).convert("RGB") for path in pictures_of(part, name)[:TABLE_ROWS]]
    if pictures:
        sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
        for place, picture in enumerate(pictures):
            sheet.paste(picture, (0, sum(other.height for other in pictures[:place])))
        axes.imshow(np.asarray(sheet))


def pictures_of(part: Path, name: str) -> list[Path]:
    """Of the newest table of this name, where W&B has put them aside to be uploaded."""
    (file,) = part.glob("run-*.wandb")
    newest: list[Path] = []
    for record in records(file):
        artifact = record.request.log_artifact.artifact if record.WhichOneof("record_type") == "request" else record.artifact
        held = {entry.path: Path(entry.local_path).name for entry in artifact.manifest.contents}
        if f"{name}.table.json" in held:
            newest = [part.parent / "artifacts/staging" / kept for path, kept in held.items() if path.endswith(".png")]
    return newest


def main(part: str, out: str) -> None:
    folder = Path(part)
    described = read_json(folder.parent / "workspace.json")
    draw(folder, described["sections"]).savefig(out, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
