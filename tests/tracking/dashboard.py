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
from largescale.tracking.workspace import TABLES
from tests.tracking.test_mirrors import records

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
            _table(axes, values[-1], part)
        elif isinstance(values[-1], dict):
            axes.stairs(values[-1]["values"], values[-1]["bins"], fill=True, alpha=0.7)
        else:
            axes.plot(steps, values, lw=1.2, label=name)
            axes.set_xlabel("step", fontsize=7)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=6, frameon=False)


def _table(axes: Axes, value: Mapping[str, Any], part: Path) -> None:
    """The pictures of its first rows, one below the other; else its cells."""
    table = json.loads((part / "files" / value["path"]).read_text())
    rows = table["data"][:TABLE_ROWS]
    strips = [cell for row in rows for cell in row if isinstance(cell, dict) and cell.get("_type") == "image-file"]
    axes.axis("off")
    if strips:
        pictures = [Image.open(part / "files" / strip["path"]).convert("RGB") for strip in strips]
        width = max(picture.width for picture in pictures)
        sheet = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
        for place, picture in enumerate(pictures):
            sheet.paste(picture, (0, sum(other.height for other in pictures[:place])))
        axes.imshow(np.asarray(sheet))
    else:
        axes.table([[str(cell)[:12] for cell in row] for row in rows], colLabels=table["columns"], loc="center")


def main(part: str, out: str) -> None:
    folder = Path(part)
    described = read_json(folder.parent / "workspace.json")
    draw(folder, described["sections"]).savefig(out, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
