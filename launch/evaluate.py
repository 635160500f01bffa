"""Scores a network: torchrun --nproc-per-node N launch/evaluate.py [STEP] weights=FILE gallery=CORPUS [key=value ...]

In place of weights: model=FOLDER, or a backbone that was never trained here, model.backbone=NAME model.weights=imagenet.
STEP is one of plan, embed, seal, search, score, report; without one, all are done that are not done yet, and the same command
continues an evaluation that was stopped, on any number of processes. `--help` lists the settings.
"""

from typing import TYPE_CHECKING

from largescale.config import asked, explain, load
from largescale.evaluation.config import EvaluateConfig
from largescale.evaluation.results import lost_by_compression, shown
from largescale.program.cli import for_torchrun, import_shards
from largescale.program.running import run_program
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.distributed import StopSignal, World
    from largescale.evaluation.report import RankedPictures
    from largescale.evaluation.results import Interval, Results

STEPS = ("plan", "embed", "seal", "search", "score", "report")
USAGE = f"torchrun --nproc-per-node N {for_torchrun('evaluate')} [{'|'.join(STEPS)}] [key=value ...] [--help [GROUP]]"
COMMON = (
    *("weights", "model", "gallery", "queries", "distractors", "protocol", "out", "store", "images.size", "scales", "precision"),
    *("score.whitening", "whitening_corpus", "score.dim", "score.rerank", "tracking.wandb"),
)


def main(arguments: list[str]) -> None:
    if (group := asked(arguments)) is not None:
        print(explain(EvaluateConfig, USAGE, COMMON, group))
        return
    step = arguments.pop(0) if arguments and arguments[0] in STEPS else None
    config = load(EvaluateConfig, arguments)
    if config.subject is None and config.descriptors is None:
        raise UserError(
            "nothing to score: give weights=FILE, model=FOLDER, or descriptors=FILE.npy with names= and ground_truth="
        )
    if config.subject is None and step not in (None, "report"):
        raise UserError(f"{step}: a file of descriptors is scored in one go; leave the step out")
    run(config, step)  # from here on with torch: what is wrong with the settings alone was said at once


def run(config: EvaluateConfig, step: str | None) -> None:
    from largescale.distributed import stoppable_world

    with stoppable_world() as (world, signal):
        take(step, config, world, signal)


def take(step: str | None, config: EvaluateConfig, world: "World", signal: "StopSignal") -> None:
    from largescale.evaluation import stage
    from largescale.evaluation.context import Context

    if step == "plan":
        print_plan(config, world)
    elif step == "report":
        report(config, world)
    elif config.subject is None:
        tell(score_descriptors(config, world), config, world)
        report(config, world)
    elif step is None:
        tell(stage.evaluate(config.subject, config, world, lambda: signal.received), config, world)
        report(config, world)
    else:
        context = Context.open(config.subject, config, world, lambda: signal.received)
        if step == "score":
            tell(stage.score(context), config, world)
        else:
            {"embed": stage.embed, "seal": stage.seal, "search": stage.search}[step](context)


def tell(results: "Results", config: EvaluateConfig, world: "World") -> None:
    if world.is_first:
        print(f"{table(results)}\n\nresults: {config.out / 'results.json'}")


def report(config: EvaluateConfig, world: "World") -> None:
    from largescale.evaluation.report import mirror, write_report
    from largescale.tracking import wanted

    if world.is_first:
        images = pictures(config)
        print(f"report: {write_report(config.out, images)}")
        if wanted(config.tracking):
            mirror(config.out, images, config.tracking)


def score_descriptors(config: EvaluateConfig, world: "World") -> "Results":
    from largescale.evaluation import Published, evaluate_descriptors

    assert config.ground_truth is not None
    found = import_shards("sources.landmarks").read_test_set(config.ground_truth)
    values = {"protocol": found.protocol, "queries": found.queries, "gallery": found.images}
    return evaluate_descriptors(config, Published.parse(values, str(config.ground_truth)), world)


def pictures(config: EvaluateConfig) -> "RankedPictures | None":
    """Where the images of the report are; none where only descriptors were given."""
    from largescale.corpus.loading import Corpus
    from largescale.evaluation.report import RankedPictures

    if config.gallery is None:
        return None
    gallery, *distractors = (Corpus.open(location, config.storage) for location in (config.gallery, *config.distractors))
    return RankedPictures(Corpus.open(config.queries, config.storage) if config.queries else gallery, gallery, distractors)


def print_plan(config: EvaluateConfig, world: "World") -> None:
    from largescale.evaluation.plan import EvaluationPlan

    if world.is_first:
        print(EvaluationPlan.open(config).summary())


def table(results: "Results") -> str:
    """Percentages with their 95 % intervals: a line per protocol and number of distractors."""
    lines = [f"{'protocol':<26}{'distractors':>12}  {'metric':<16}{'%':>7}{'95 %':>18}  more"]
    for protocol in results.protocols:
        for point in protocol.distractor_curve:
            more = "  ".join(f"{name} {shown(name, x.value)}" for name, x in list(point.metrics.items())[1:4])
            main = point.metrics[protocol.main]
            number = f"{shown(protocol.main, main.value):>7}{interval(protocol.main, main):>18}"
            lines.append(f"{protocol.protocol:<26}{point.distractors:>12,}  {protocol.main:<16}{number}  {more}")
    lines += [f"{protocol.protocol}: {said}" for protocol in results.protocols if (said := lost_by_compression(protocol))]
    named = {protocol.incomplete: protocol.protocol for protocol in results.protocols if protocol.incomplete}
    lines += [f"incomplete: {found}; this is no score of {name.partition('-')[0]}" for found, name in named.items()]
    if results.tuned:
        lines.append("tuned: what scores was set for this test set alone")
    return "\n".join(lines)


def interval(metric: str, x: "Interval") -> str:
    return f"{shown(metric, x.low)} to {shown(metric, x.high)}"


if __name__ == "__main__":
    run_program(main)
