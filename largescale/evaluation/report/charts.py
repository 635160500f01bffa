"""The plots of a report, as SVG text that takes its ink from the page."""

import io
from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from largescale.evaluation.results import Histogram, PrecisionRecall, ProtocolResult, scale

GREEN, RED, AMBER, BLUE = "#2e9e5b", "#d1495b", "#e09f1f", "#3572b0"
PAIR = (BLUE, AMBER)
COLORS = (BLUE, AMBER, GREEN, RED, "#8a5cb8", "#5b8c8c", "#a0627a", "#7a7a52", "#c98a6b")
SIZE = (4.2, 2.9)


def precision_recall(curves: Mapping[str, PrecisionRecall]) -> str:
    """One curve, or those of A and B by name."""

    def draw(axes: Axes) -> None:
        for (name, curve), color in zip(curves.items(), PAIR, strict=False):
            axes.plot(curve.recall, curve.precision, color=color, label=name)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        if len(curves) > 1:
            axes.legend(frameon=False)

    return svg(draw)


def small_curve(precision: Sequence[float]) -> str:
    """Precision at rising recall as a line of the height of three lines of text; nothing for no values."""
    if not precision:
        return ""
    points = " ".join(f"{100 * i / (len(precision) - 1):.0f},{32 - 30 * value:.1f}" for i, value in enumerate(precision))
    title = "precision at 10 %, 20 %, … 100 % of the positives: " + ", ".join(f"{value:.2f}" for value in precision)
    return (
        f'<svg class="curve" viewBox="0 0 100 33" role="img"><title>{title}</title><path d="M0 2H100M0 32H100"/>'
        f'<polyline points="{points}"/></svg>'
    )


def gains(values: Sequence[float], metric: str) -> str:
    """A bar per query, from the largest loss to the largest gain."""

    def draw(axes: Axes) -> None:
        ordered = sorted(scale(metric) * value for value in values)
        colors = [GREEN if value > 0 else RED for value in ordered]
        axes.bar(range(len(ordered)), ordered, width=1, color=colors)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(xlabel="queries", ylabel=f"{metric}, B - A (points)")

    return svg(draw)


def histogram(counts: Histogram) -> str:
    """Shares, so that few positives are seen beside many negatives."""

    def draw(axes: Axes) -> None:
        rows = {"positives": (counts.positives, GREEN), "negatives": (counts.negatives, RED)}
        rows["distractors"] = (counts.distractors, AMBER)
        for name, (values, color) in rows.items():
            total = sum(values)
            if total:
                axes.stairs([value / total for value in values], counts.edges, color=color, label=name, fill=True, alpha=0.35)
                axes.stairs([value / total for value in values], counts.edges, color=color)
        used = [i for i, values in enumerate(zip(*(row for row, _ in rows.values()), strict=True)) if any(values)]
        if used:
            axes.set_xlim(counts.edges[used[0]], counts.edges[used[-1] + 1])
        axes.set(xlabel="similarity", ylabel="share")
        axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9)

    return svg(draw)


def distractor_curve(results: Mapping[str, ProtocolResult]) -> str:
    """One result, or those of A and B by name."""

    def draw(axes: Axes) -> None:
        for (name, result), color in zip(results.items(), PAIR, strict=False):
            points = [(point.distractors, point.metrics[result.main]) for point in result.distractor_curve]
            counts = [count for count, _ in points]
            times = scale(result.main)
            axes.plot(counts, [times * score.value for _, score in points], marker="o", color=color, label=name)
            low, high = [times * score.low for _, score in points], [times * score.high for _, score in points]
            axes.fill_between(counts, low, high, color=color, alpha=0.2)
        axes.set_xscale("symlog", linthresh=max(1, min((c for c in counts if c), default=1)))
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.set(xlabel="distractors", ylabel=result.main + ("" if scale(result.main) == 1 else " (%)"))
        if len(results) > 1:
            axes.legend(frameon=False)

    return svg(draw)


def lines(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    level: tuple[str, float] | None = None,
    doubling: bool = False,
) -> str:
    """Curves by name; `level` is a horizontal line; `doubling` makes steps of a factor of two equal."""

    def draw(axes: Axes) -> None:
        for number, (name, points) in enumerate(curves.items()):
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, color=COLORS[number % len(COLORS)])
        if level is not None:
            axes.axhline(level[1], color="black", linewidth=0.9, linestyle="--", label=level[0])
        if doubling:
            ticks = sorted({point[0] for points in curves.values() for point in points})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(xlabel=x, ylabel=y)
        axes.legend(frameon=False, fontsize=8)

    return svg(draw)


def svg(draw: Callable[[Axes], None]) -> str:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor")
