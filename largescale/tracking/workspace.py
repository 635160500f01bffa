"""The dashboard of a project in W&B: sections in the order in which a run is looked at.

It is written beside a run as `wandb/workspace.json` and made in the project by the first run that is online; from then on it
belongs to who looks at it, and no later run changes it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from largescale.commit import read_json, write_json
from largescale.program.extras import panels, workspaces

log = logging.getLogger(__name__)

NAME = "largescale"
VIEW = "nw-largescale-v"
"""Its name in addresses: `?nw=largescale`."""
SECTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Overview": {
        "Score": ("eval/score", "eval/best_score"),
        "Loss": ("train/loss",),
        "Throughput, images per second": ("data/images_per_second",),
        "Waiting for data, percent": ("data/wait_percent",),
        "Age of the negatives, steps": ("mining/age_steps",),
        "Queries' negatives that were mined": ("mining/coverage",),
    },
    "Descriptors": {
        "Distances of positives": ("train/positive_distances",),
        "Distances of negatives": ("train/negative_distances",),
        "Spread: dimensions in use": ("train/effective_rank",),
        "Mean similarity": ("train/mean_similarity",),
        "Exponent of GeM": ("train/gem_exponent",),
        "Hardest triplets at the margin": ("train/triplets_at_margin",),
        "Hardest of a step": ("pictures/hardest",),
    },
    "Evaluation": {
        "Before and soon after the start": ("eval/quick/recall_at_1", "eval/quick/map_at_r"),
        "Scores among distractors": ("tables/distractor_curve_table",),
        "Rankings": ("pictures/rankings",),
    },
    "Mining": {
        "Distance of negatives": ("mining/distance",),
        "Recall of the index": ("mining/recall",),
        "Random negatives": ("mining/random_negatives",),
        "Seconds": ("mining/seconds", "mining/wait_seconds"),
    },
    "Optimizer": {
        "Rate": ("train/learning_rate",),
        "Norm of the gradient": ("train/gradient_norm",),
        "Steps without a matching pair": ("train/degenerate",),
    },
    "Machine": {
        "Memory, GiB": ("system/process_gib", "system/gpu_gib"),
        "Seconds of waiting": ("data/wait_seconds",),
        "Images that cannot be decoded": ("data/bad_images",),
    },
}
"""Panels of each section: title, and the metrics, or the one table, that it shows."""
TABLES = ("pictures/", "tables/")


def write_workspace(directory: Path) -> Path:
    """Write what the workspace holds into the folder that W&B has in a run; one that is there stays."""
    file = directory / "workspace.json"
    if not file.exists():
        sections = [{"name": name, "panels": _listed(shown)} for name, shown in SECTIONS.items()]
        write_json(file, {"name": NAME, "url": None, "sections": sections})
    return file


def _listed(found: Mapping[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    return [{"title": title, "shows": list(metrics)} for title, metrics in found.items()]


def publish(file: Path, entity: str, project: str, address: str) -> None:
    """Make the workspace of `file` in a project that has none, and note in the file where it is.

    Args:
        address: of the project. Whatever fails is said and changes nothing else: no run depends on its dashboard.
    """
    try:
        described = read_json(file)
        if described["url"] is not None:
            return
        url = f"{address}?nw={NAME}"
        if not _exists(url):
            of_description(described, entity, project).save()
        write_json(file, {**described, "url": url})
    except Exception as error:
        log.warning("the workspace of W&B was not made, the next start of the run tries again: %s", error)


def _exists(url: str) -> bool:
    try:
        workspaces.Workspace.from_url(url)
    except ValueError:  # the project has none of this name, or no run yet
        return False
    return True


def of_description(described: Mapping[str, Any], entity: str, project: str) -> Any:
    """The workspace as W&B's library has it."""
    sections = [
        workspaces.Section(name=section["name"], panels=list(map(_panel, section["panels"])), is_open=place < 2)
        for place, section in enumerate(described["sections"])
    ]
    workspace = workspaces.Workspace(entity=entity, project=project, name=described["name"], sections=sections)
    workspace._internal_name = VIEW  # else each would get a random one, and nobody could tell whether it is there
    return workspace


def _panel(panel: Mapping[str, Any]) -> Any:
    if panel["shows"][0].startswith(TABLES):
        return panels.WeavePanelSummaryTable(table_name=panel["shows"][0])
    return panels.LinePlot(title=panel["title"], x="step", y=panel["shows"])
