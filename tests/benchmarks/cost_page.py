"""Measures how the cost of mining grows and writes it beside the model: `python -m tests.benchmarks.cost_page [FOLDER]`.

mining-cost.md and mining-cost.svg, by default in docs/explanation; about ten minutes on 2 cores, which nothing else should use.
"""

import io
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from largescale.commit import write_text
from largescale.cpu import cores_of_node
from tests.benchmarks.bench_cost import (
    RANKS,
    SETTINGS,
    Outcome,
    Point,
    Setting,
    generations,
    make_corpora,
    predicted,
    searches,
)
from tests.world import run_world

OUT = Path(__file__).parents[2] / "docs" / "explanation"
POINTS = {
    "pool": [Point(pool=count) for count in (10_000, 20_000, 40_000, 80_000, 160_000)],
    "queries": [Point(queries=count) for count in (250, 500, 1000, 2000, 4000)],
    "dim": [Point(dim=count) for count in (128, 256, 512, 1024, 2048)],
}
IMAGES = [Setting(pool=count) for count in (600, 1200, 2400, 4800)]
WORLDS = (1, 2, 4)
TITLES = {"pool": "images of the pool", "queries": "queries", "dim": "dimensions", "ranks": "processes", "images": "images"}
Curve = tuple[list[int], list[Outcome]]


def measure_growth(folder: Path) -> dict[str, Curve]:
    """What is varied -> its values and what was measured; the searches by four processes where these are not varied."""
    curves: dict[str, Curve] = {}
    for name, points in POINTS.items():
        curves[name] = [getattr(point, name) for point in points], run_world(RANKS, searches, points, timeout_s=600)[0]
    curves["ranks"] = list(WORLDS), [run_world(size, searches, [Point()], timeout_s=600)[0][0] for size in WORLDS]
    make_corpora(IMAGES, folder)
    curves["images"] = [setting.pool for setting in IMAGES], run_world(RANKS, generations, IMAGES, folder, timeout_s=600)[0]
    return curves


def plot(curves: dict[str, Curve]) -> str:
    """SVG: a panel for each quantity, measured points on the line of the model."""
    matplotlib.rcParams["svg.hashsalt"] = "cost"
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for number, (name, (values, outcomes)) in enumerate(curves.items(), 1):
        _panel(figure.add_subplot(2, 3, number), name, values, outcomes)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _panel(axes: Axes, name: str, values: Sequence[int], outcomes: Sequence[Outcome]) -> None:
    axes.loglog(values, [predicted(outcome) for outcome in outcomes], "-", color="0.6", label="model")
    axes.loglog(values, [outcome.seconds for outcome in outcomes], "o", color="C0", label="measured")
    axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
    axes.minorticks_off()
    axes.set_title("a whole generation" if name == "images" else "search and exchange", fontsize=10)
    axes.set_xlabel(TITLES[name])
    axes.set_ylabel("seconds")
    axes.legend(frameon=False)


def page(settings: Sequence[Setting], outcomes: Sequence[Outcome], curves: dict[str, Curve]) -> str:
    base = Point()
    lines = [
        "# What mining costs, by the model and by the clock",
        "",
        f"Measured by {RANKS} processes on {cores_of_node():g} cores ({processor()}):",
        "`python -m tests.benchmarks.cost_page`. The model is the one that `launch/mine.py --plan` prints; its rates",
        "were measured in the same processes just before each setting, on other descriptors and on a sample of the images.",
        "Seconds are those of the slowest process.",
        "",
        "## Whole generations",
        "",
        "| setting | embed, model | measured | search, model | measured | together, measured / model |",
        "|---|---:|---:|---:|---:|---:|",
        *(_line(setting, outcome) for setting, outcome in zip(settings, outcomes, strict=True)),
        "",
        "## Growth",
        "",
        "![Seconds against pool, queries, dimension, processes and images](mining-cost.svg)",
        "",
        f"Searches among descriptors that are there: {base.pool:,} images, {base.queries:,} queries, {base.dim} dimensions where",
        "not varied. The processes share the cores of one machine: more of them make nothing faster, what grows is the exchange.",
        "",
    ]
    for name, (values, found) in curves.items():
        ratios = [outcome.seconds / predicted(outcome) for outcome in found]
        told = ", ".join(f"{value:,}: {ratio:.2f}" for value, ratio in zip(values, ratios, strict=True))
        lines.append(f"* {TITLES[name]}{' (whole generations)' if name == 'images' else ''}, measured / model: {told}")
    return "\n".join([*lines, ""])


def _line(setting: Setting, outcome: Outcome) -> str:
    embed, *rest = (stage.seconds for stage in outcome.cost.stages)
    columns = [embed, outcome.embed, sum(rest), outcome.search, outcome.seconds / predicted(outcome)]
    return f"| {setting} | {' | '.join(f'{value:.2f}' for value in columns)} |"


def processor() -> str:
    described = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    return next((line.partition(":")[2].strip() for line in described if line.startswith("model name")), platform.machine())


def main(out: Path, settings: Sequence[Setting] = SETTINGS, growth: Callable[[Path], dict[str, Curve]] = measure_growth) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_corpora(settings, Path(folder))
        outcomes = run_world(RANKS, generations, settings, Path(folder), timeout_s=600)[0]
        curves = growth(Path(folder) / "growth")
    write_text(out / "mining-cost.svg", plot(curves))
    write_text(out / "mining-cost.md", page(settings, outcomes, curves))
    print(f"{out / 'mining-cost.md'} and mining-cost.svg are written")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
